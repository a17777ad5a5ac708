import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const lib = (path: string) => fileURLToPath(new URL(`./lib/${path}`, import.meta.url));

export default defineConfig({
  resolve: {
    alias: [
      { find: /^stable-diffcoder$/, replacement: lib("index.ts") },
      { find: /^stable-diffcoder\/([a-z]+)$/, replacement: lib("$1/index.ts") },
    ],
  },
  test: {
    include: ["test/**/*.test.ts"],
    exclude: ["test/gpu/**", "node_modules/**"],
    pool: "forks", // a crash in the addon must fail one file, not the run
    maxWorkers: 2,
    // Two workers with two OpenMP threads each would spin against each other: twenty times slower on two cores.
    env: { OMP_NUM_THREADS: process.env.OMP_NUM_THREADS ?? "1" },
    // They end a test that hangs, and nothing else: a busy machine may take ten times as long as a calm one.
    testTimeout: 300_000,
    hookTimeout: 600_000,
  },
});
