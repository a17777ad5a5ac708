import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { projectRoot } from "../../scripts/lib/paths.mjs";
import { importsOf } from "./imports.js";

// Threads that do nothing with tensors start in a fraction of the time, and survive what ends libtorch, if nothing they
// import loads the addon. A type costs nothing: it is not there when the code runs.
const THREADS = [
  "lib/data/prefetch-thread.ts",
  "lib/checkpoint/writer-thread.ts",
  "lib/server/prompts/prompt-thread.ts",
  "lib/train/sinks/wandb/worker.ts",
];
const ADDON = "lib/torch/native.ts";

/** How a file comes to load another, or undefined. */
function wayTo(from: string, target: string): string[] | undefined {
  const before = new Map<string, string | undefined>([[from, undefined]]);
  for (const file of before.keys()) {
    if (file === target) {
      const way = [];
      for (let at: string | undefined = file; at !== undefined; at = before.get(at)) way.unshift(at);
      return way;
    }
    for (const next of importsOf(file)) if (!before.has(next)) before.set(next, file);
  }
  return undefined;
}

describe("threads that must not load the addon", () => {
  it.each(THREADS)("%s does not", (thread) => {
    expect(existsSync(join(projectRoot, thread))).toBe(true);
    expect(wayTo(thread, ADDON)).toBeUndefined();
  });

  it("nor does a process that imports the engine and the server, until it decodes by itself", () => {
    const loaded = "process.report.getReport().sharedObjects.some((path) => path.endsWith('diffcoder.node'))";
    const program = (entries: string[]) =>
      `for (const entry of ${JSON.stringify(entries)}) await import(\`./lib/\${entry}/index.ts\`); console.log(${loaded});`;
    const run = (entries: string[]) =>
      execFileSync(process.execPath, ["--import", "tsx", "--input-type=module", "-e", program(entries)], {
        cwd: projectRoot,
        encoding: "utf8",
      }).trim();
    expect(run(["engine", "server"])).toBe("false");
    expect(run(["torch"])).toBe("true");
  });

  it("is a rule that the engine's worker does not keep", () => {
    expect(wayTo("lib/engine/worker.ts", ADDON)?.at(-1)).toBe(ADDON);
  });
});
