// dist/: the compiled lib/.
import { existsSync, rmSync } from "node:fs";
import { join, relative } from "node:path";
import { pathsOf, projectRoot } from "./paths.mjs";
import { SetupProblem } from "./problem.mjs";
import { runLogged } from "./run.mjs";
import { filesBelow, fingerprint, readStamp, staleEntries, writeStamp } from "./stamp.mjs";

function sourcesOf(root) {
  return filesBelow(join(root, "lib"), (name) => /\.(ts|mts|json)$/.test(name));
}

function distStamp(root) {
  const sources = sourcesOf(root);
  const settings = ["tsconfig.json", "tsconfig.build.json", "package-lock.json", "scripts/compile-typescript.mjs"].map(
    (name) => join(root, name),
  );
  return { sources: fingerprint(root, [...sources, ...settings]), files: sources.map((file) => relative(root, file)) };
}

/**
 * Why lib/ must be compiled, or an empty list.
 * @param {{ root?: string }} [options]
 */
export function distStaleness({ root = projectRoot } = {}) {
  const paths = pathsOf(root);
  if (!existsSync(join(root, "lib"))) return []; // a published package: dist/ came with it
  return staleEntries(readStamp(paths.distStamp), distStamp(root));
}

/**
 * Compiles lib/ to dist/.
 * @param {{ root?: string, env?: NodeJS.ProcessEnv, force?: boolean }} [options]
 */
export async function compileTypeScript({ root = projectRoot, env = process.env, force = false } = {}) {
  const paths = pathsOf(root);
  const stamp = distStamp(root);
  const before = /** @type {string[]} */ (readStamp(paths.distStamp)?.files ?? []);
  // tsc leaves the output of a file that is gone, and it would still be importable.
  if (force || before.some((file) => !stamp.files.includes(file))) rmSync(paths.dist, { recursive: true, force: true });
  try {
    await runLogged(process.execPath, [join(root, "scripts", "compile-typescript.mjs")], {
      log: join(paths.logs, "typescript.log"),
      cwd: root,
      env,
    });
  } catch (error) {
    const lines = (error.lines ?? []).filter((line) => line.trim());
    const rest = lines.length > 20 ? `\n    and ${lines.length - 20} more lines in .cache/logs/typescript.log` : "";
    throw new SetupProblem(
      "TYPESCRIPT_FAILED",
      `lib/ does not compile:\n    ${lines.slice(0, 20).join("\n    ")}${rest}`,
    );
  }
  writeStamp(paths.distStamp, stamp);
}
