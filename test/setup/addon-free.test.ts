import { existsSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { describe, expect, it } from "vitest";
import { projectRoot } from "../../scripts/lib/paths.mjs";

// Threads that do nothing with tensors start in a fraction of the time, and survive what ends libtorch, if nothing they
// import loads the addon. A type costs nothing: it is not there when the code runs.
const THREADS = [
  "lib/data/prefetch-thread.ts",
  "lib/checkpoint/writer-thread.ts",
  "lib/server/prompts/prompt-thread.ts",
  "lib/train/sinks/wandb/worker.ts",
];
const ADDON = "lib/torch/native.ts";

/** The project's files that a file imports when it runs. */
function importsOf(file: string): string[] {
  const text = readFileSync(join(projectRoot, file), "utf8");
  const named = [...text.matchAll(/^(?:import|export)\s(?!type\s)(?:[^;]*?\sfrom\s)?"(\.[^"]+)";/gm)].map(
    ([, path]) => path,
  );
  const dynamic = [...text.matchAll(/\bimport\("(\.[^"]+)"\)/g)].map(([, path]) => path);
  return [...named, ...dynamic].map((path) =>
    relative(projectRoot, join(projectRoot, dirname(file), path.replace(/\.js$/, ".ts"))),
  );
}

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

  it("is a rule that the engine's worker does not keep", () => {
    expect(wayTo("lib/engine/worker.ts", ADDON)?.at(-1)).toBe(ADDON);
  });
});
