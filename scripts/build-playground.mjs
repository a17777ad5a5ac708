// Builds the playground (playground/) into assets/playground, which is committed and shipped; --check only says whether
// what lies there is what the sources give.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { gzipSync } from "node:zlib";
import { build } from "vite";
import { projectRoot } from "./lib/paths.mjs";
import { filesBelow } from "./lib/stamp.mjs";

/** Bytes after gzip that all files together may take. */
const LIMIT = 60_000;
const target = join(projectRoot, "assets/playground");
process.env.NODE_ENV = "production"; // else the build would depend on who starts it
const checkOnly = process.argv.includes("--check");
const outDir = checkOnly ? mkdtempSync(join(tmpdir(), "diffcoder-playground-")) : target;

try {
  await build({
    configFile: false,
    root: join(projectRoot, "playground"),
    base: "./",
    logLevel: "warn",
    build: {
      outDir,
      emptyOutDir: true,
      target: "es2022",
      modulePreload: false,
      assetsInlineLimit: 0, // the page's policy allows no data: addresses
      rollupOptions: {
        // Fixed names: a new build changes files, not their list. The server lets browsers ask whether they changed.
        output: { entryFileNames: "playground.js", assetFileNames: "playground[extname]" },
      },
    },
  });
  const built = read(outDir);
  const bytes = [...built.values()].reduce((sum, content) => sum + gzipSync(content).length, 0);
  if (bytes > LIMIT) throw new Error(`The page takes ${bytes} bytes gzipped; ${LIMIT} are allowed.`);
  if (checkOnly) compare(read(target), built);
  console.log(`${checkOnly ? "Checked" : "Built"} ${built.size} files, ${bytes} bytes gzipped.`);
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  if (checkOnly) rmSync(outDir, { recursive: true });
}

/** @returns {Map<string, Buffer>} by path from the folder */
function read(folder) {
  return new Map(filesBelow(folder, () => true).map((path) => [relative(folder, path), readFileSync(path)]));
}

function compare(committed, fresh) {
  const names = new Set([...committed.keys(), ...fresh.keys()]);
  const wrong = [...names].filter((name) => !committed.get(name)?.equals(fresh.get(name) ?? Buffer.alloc(0)));
  if (wrong.length > 0) {
    throw new Error(`Not built from these sources (npm run build:playground mends it): ${wrong.join(", ")}`);
  }
}
