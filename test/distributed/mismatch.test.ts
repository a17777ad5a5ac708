import { appendFileSync, cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { differences } from "../../lib/distributed/exchange.js";
import { projectRoot } from "../../scripts/lib/paths.mjs";
import type { MismatchOrder, MismatchOutcome } from "./children/mismatch.js";
import { temporaryFolder } from "./runs.js";
import { freePort, startRanks } from "./support.js";

/** Two ranks, of which the second has other orders, and maybe another copy of the library: how each run ended on both. */
async function pair(orders: readonly MismatchOrder[], root = projectRoot) {
  const ports = await Promise.all(orders.map(freePort));
  const ranks = [
    { root: projectRoot, orders: orders.map(({ init }) => ({ init })) },
    { root, orders },
  ];
  const args = [JSON.stringify({ ranks, ports })];
  const addon = process.env.DIFFCODER_ADDON ?? join(projectRoot, "build", "Release", "diffcoder.node");
  const env = { DIFFCODER_ADDON: addon };
  const started = await startRanks<MismatchOutcome[]>("mismatch-entry.ts", { args, env, timeout: 250 });
  const ends = await Promise.all(started.map(({ ended }) => ended));
  for (const { signal, result, stderr } of ends) if (signal || !result) throw new Error(stderr);
  return {
    exitCodes: ends.map(({ code }) => code),
    outcomes: orders.map((_, i) => ends.map(({ result = [] }) => result[i])),
  };
}

/** The library's sources with another version in package.json. */
function otherVersion(): string {
  const root = temporaryFolder();
  cpSync(join(projectRoot, "lib"), join(root, "lib"), { recursive: true });
  for (const file of ["rank.ts", "children/mismatch.ts"]) {
    cpSync(join(projectRoot, "test", "distributed", file), join(root, "test", "distributed", file));
  }
  mkdirSync(join(root, "test", "train"));
  cpSync(join(projectRoot, "test", "train", "tiny.ts"), join(root, "test", "train", "tiny.ts"));
  symlinkSync(join(projectRoot, "node_modules"), join(root, "node_modules"));
  const manifest = JSON.parse(readFileSync(join(projectRoot, "package.json"), "utf8")) as object;
  writeFileSync(join(root, "package.json"), JSON.stringify({ ...manifest, version: "9.9.9" }));
  return root;
}

/** What the second rank has otherwise, and what both are to say of it. */
const FORMS: [form: string, order: MismatchOrder, lines: RegExp[]][] = [
  ["seed", { run: { seed: 7 } }, [/ {2}seed: rank 1: 7, rank 0: 0\n/]],
  ["learning rate", { lr: 2e-3 }, [/ {2}stages\[0\]\.lr: rank 1: 0\.002, rank 0: 0\.001\n/]],
  ["batch size", { globalBatchSize: 8 }, [/ {2}stages\[0\]\.globalBatchSize: rank 1: 8, rank 0: 4\n/]],
  ["steps", { steps: 4 }, [/ {2}stages\[0\]\.steps: rank 1: 4, rank 0: 3\n/]],
  ["data", { samples: 38 }, [/stages\[0\]\.data\.hash: rank 1: "counting 38 /, /data\.numSamples: rank 1: 38/]],
  [
    "checkpointEvery",
    { run: { checkpointEvery: { steps: 2 } } },
    [/ {2}checkpointEvery\.steps: rank 1: 2, rank 0: absent\n/],
  ],
  ["model size", { model: { hiddenSize: 24 } }, [/ {2}model\.hiddenSize: rank 1: 24, rank 0: 16\n/]],
  [
    "stages, objective, optimiser, precision, dtype and parallel options at once",
    {
      ...{ name: "other", ownObjective: true, decay: 0.2, precision: "bfloat16", gradientAccumulationSteps: 2 },
      ...{ model: { dtype: "bfloat16" }, run: { strict: true, parallel: { activationCheckpointing: "full" } } },
    },
    [
      /stages\[0\]\.name: rank 1: "other", rank 0: "only"/,
      /stages\[0\]\.objective: rank 1: .* with source \w+", rank 0: .* with source \w+"/,
      /stages\[0\]\.optimizer\.weightDecay: rank 1: 0\.2, rank 0: 0\.1/,
      /stages\[0\]\.precision: rank 1: "bfloat16", rank 0: "float32"/,
      /stages\[0\]\.gradientAccumulationSteps: rank 1: 2, rank 0: 1/,
      /model\.dtype: rank 1: "bfloat16", rank 0: "float32"/,
      /strict: rank 1: true, rank 0: false/,
      /parallel\.activationCheckpointing: rank 1: "full", rank 0: "none"/,
    ],
  ],
  ["the order of stages", { swapped: true }, [/stages\[0\]\.name: rank 1: "second", rank 0: "only"/]],
];

function expectRefused(form: string, outcomes: readonly MismatchOutcome[], lines: readonly RegExp[]): void {
  for (const { code, message } of outcomes) {
    expect(code, `${form}: ${message}`).toBe("DISTRIBUTED_STATE");
    for (const line of lines) expect(message).toMatch(line);
  }
  if (!process.env.DIFFCODER_TIMES) return;
  appendFileSync(process.env.DIFFCODER_TIMES, `${form}: ${outcomes.map(({ seconds }) => seconds.toFixed(2))} s\n`);
}

describe("ranks that differ are refused by all, before they train", () => {
  it(`in ${FORMS.map(([form]) => form).join(", ")}; those that are alike train; one that does not come is named`, async () => {
    const { exitCodes, outcomes } = await pair([...FORMS.map(([, order]) => order), {}, { late: 8, init: 1 }]);
    expect(exitCodes).toEqual([1, 1]);
    for (const [i, [form, , lines]] of FORMS.entries()) expectRefused(form, outcomes[i], lines);
    expect(outcomes[FORMS.length]).toMatchObject([{ steps: 6 }, { steps: 6 }]);
    const [waiting] = outcomes[FORMS.length + 1];
    expect(waiting.code).toBe("DISTRIBUTED_TIMEOUT");
    expect(waiting.message).toMatch(/rank 1 of 2 did not arrive within 1 s|rank 1 is gone or stuck/);
  });

  it("in the version of the library", async () => {
    const { exitCodes, outcomes } = await pair([{}], otherVersion());
    expect(exitCodes).toEqual([1, 1]);
    expectRefused("version", outcomes[0], [/ {2}stable-diffcoder: rank 1: 9\.9\.9, rank 0: \d+\.\d+\.\d+/]);
  });
});

describe("differences of many ranks", () => {
  it("are listed by value, the few before the many", () => {
    const all = Array.from({ length: 12 }, (_, i) => ({
      lr: i === 3 || i === 5 ? "0.1" : "0.2",
      seed: "1",
      ...(i > 0 && { more: "1" }),
    }));
    expect(differences(all)).toEqual([
      "lr: ranks 3, 5: 0.1, ranks 0, 1, 2, 4, 6, 7, 8, 9 and 2 more: 0.2",
      "more: rank 0: absent, ranks 1, 2, 3, 4, 5, 6, 7, 8 and 3 more: 1",
    ]);
  });
});
