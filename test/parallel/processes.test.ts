import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, describe, expect, it } from "vitest";
import type { AttentionCase, ObjectiveCase } from "./children/jobs.js";

// What context-parallel.test.ts shows with threads, with processes and Gloo.

const folder = mkdtempSync(join(tmpdir(), "context-parallel-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const program = fileURLToPath(new URL("./children/process-rank.ts", import.meta.url));

const objectives: ObjectiveCase[] = [
  { kind: "block-diffusion", length: 48, blockSize: 4, dtype: "float64" },
  {
    kind: "block-diffusion",
    length: 45,
    blockSize: 4,
    shift: true,
    documents: [0, 3, 29, 45, 76, 90],
    dtype: "float64",
  },
  { kind: "autoregressive", length: 50, dtype: "float64", order: "contiguous" },
];
const attention: AttentionCase[] = [
  { batch: 2, length: 192, blockSize: 4 },
  { batch: 2, length: 192, blockSize: 4, dtype: "bfloat16" },
];

describe.each([2, 3])("%i processes", (size) => {
  it("compute what one does alone", async () => {
    const jobs = [
      ["sharded", { kind: "block-diffusion", length: 48, blockSize: 4, dtype: "float32" }],
      ...attention.map((c) => ["attention", c]),
      ...objectives.map((c) => ["objective", c]),
    ];
    const start = (rank: number) =>
      promisify(execFile)(process.execPath, [
        ...["--import", "tsx", program, String(rank), String(size), join(folder, `store-${size}`)],
        JSON.stringify(jobs),
      ]);
    const outputs = await Promise.all(Array.from({ length: size }, (_, rank) => start(rank)));
    const ranks = outputs.map(({ stdout }) => JSON.parse(stdout.trim().split("\n").at(-1) as string));
    const sums = objectives.map(() => 0);
    for (const [sharded, wide, narrow, ...results] of ranks) {
      expect(sharded).toBeLessThan(1e-5);
      expect(Math.max(wide.out, wide.gradients)).toBeLessThan(1e-12);
      expect(Math.max(narrow.out, narrow.gradients)).toBeLessThan(1e-2);
      for (const [i, { loss, metrics, gradients, own }] of results.entries()) {
        expect(Math.max(loss, metrics, gradients)).toBeLessThan(1e-12);
        sums[i] += own;
      }
    }
    // Nobody computed it all.
    for (const [, , , ...results] of ranks) {
      for (const [i, { own }] of results.entries()) expect(own).toBeLessThan(0.8 * sums[i]);
    }
  });
});
