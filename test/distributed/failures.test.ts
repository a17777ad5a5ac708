import { describe, expect, it } from "vitest";
import type { TrainEvent } from "../../lib/train/index.js";
import type { TrainOrder } from "./children/train.js";
import { expectClose, finalWeights, temporaryFolder, train } from "./runs.js";
import { type RankEnd, startRanks } from "./support.js";

/** Runs two processes, to one of which something happens, and gives how both ended. */
async function disturbed(
  fault: TrainOrder["fault"],
  run: TrainOrder["run"] = {},
): Promise<RankEnd<{ events: TrainEvent[] }>[]> {
  const timeouts = { init: 20, firstStep: 20, step: 4 };
  const order: TrainOrder = { run: { sinks: [], ...run, parallel: { timeouts, ...run.parallel } }, fault };
  const ranks = await startRanks<{ events: TrainEvent[] }>("train.ts", { size: 2, args: [JSON.stringify(order)] });
  const ends = ranks.map(({ ended }) => ended);
  const survivors = ranks.filter(({ rank }) => rank !== fault?.rank);
  await Promise.all(survivors.map(({ ended }) => ended));
  const endsByItself = fault?.kind !== "stop" && fault?.kind !== "hang";
  if (!endsByItself) for (const { child } of ranks) child.kill("SIGKILL");
  return await Promise.all(ends);
}

describe("when a process", () => {
  it("is killed, the others end with a message that names it", async () => {
    for (const shard of [1, 2]) {
      const [survivor, dead] = await disturbed({ rank: 1, step: 7, kind: "kill" }, { parallel: { shard } });
      expect(dead.signal).toBe("SIGKILL");
      expect(survivor.code).toBe(1);
      expect(survivor.stderr).toMatch(/DISTRIBUTED_PEER/);
      expect(survivor.stderr).toMatch(/rank 1 is gone or stuck/);
    }
  });

  it("that holds the store is killed, the others say so", async () => {
    const [, survivor] = await disturbed({ rank: 0, step: 7, kind: "kill" });
    expect(survivor.code).toBe(1);
    expect(survivor.stderr).toMatch(/rank 0, which holds the store at 127\.0\.0\.1:\d+, is gone/);
  });

  it("hangs, the others end after the step's timeout and name it", async () => {
    for (const kind of ["hang", "stop"] as const) {
      const [survivor] = await disturbed({ rank: 1, step: 7, kind });
      expect(survivor.code).toBe(1);
      expect(survivor.stderr).toMatch(/DISTRIBUTED_TIMEOUT/);
      expect(survivor.stderr).toMatch(/rank 1 is gone or stuck/);
    }
  });

  it("fails by an error of its own, the others quote it", async () => {
    const [survivor, failed] = await disturbed({ rank: 1, step: 7, kind: "throw" });
    expect(failed.stderr).toMatch(/RangeError: the user's own mistake/);
    expect(survivor.code).toBe(1);
    expect(survivor.stderr).toMatch(
      /rank 1 failed: stage '\w+', step \d+: the objective failed: RangeError: the user's own mistake/,
    );
  });

  it("stops reading the run's events alone, both say so", async () => {
    const ends = await disturbed(
      { rank: 1, step: 7, kind: "leave" },
      { outputDir: temporaryFolder(), checkpointEvery: {} },
    );
    const [survivor, left] = ends;
    expect([survivor.code, left.code]).toEqual([1, 1]);
    expect(left.stderr).toMatch(/DISTRIBUTED_STATE/);
    expect(left.stderr).toMatch(/stopped reading the run's events, but the other processes did not/);
    expect(survivor.stderr).toMatch(/rank 1 failed: stopped reading the run's events/);
  });

  it.each([
    ["needs whole matrices", { elementwise: false }, { shard: 2 }],
    ["does not say", {}, { tensor: 2 }],
  ])("has an optimiser that %s, it is refused where parameters are cut", async (_, ownOptimizer, parallel) => {
    const order: TrainOrder = { run: { sinks: [], parallel }, ownOptimizer };
    const ranks = await startRanks("train.ts", { size: 2, args: [JSON.stringify(order)] });
    for (const { code, stderr } of await Promise.all(ranks.map(({ ended }) => ended))) {
      expect(code).toBe(1);
      expect(stderr).toMatch(/TRAIN_OPTIONS/);
      expect(stderr).toMatch(
        /stage 'compress': its optimizer does not declare `elementwise: true`, and the parameters are sharded/,
      );
    }
  });

  it("has one that is elementwise, parameters may be cut", async () => {
    const order: TrainOrder = { run: { parallel: { shard: 2 } }, ownOptimizer: { elementwise: true }, steps: 2 };
    const { ranks } = await train(2, order);
    expect(ranks[0].at(-1)).toMatchObject({ type: "done" });
  });

  it("joined with another backend than the run wants, all refuse", async () => {
    for (const { code, stderr } of await disturbed(undefined, { parallel: { backend: "nccl" } })) {
      expect(code).toBe(1);
      expect(stderr).toMatch(/TRAIN_OPTIONS/);
      expect(stderr).toMatch(/parallel\.backend is "nccl", but the process group uses "gloo": call initProcessGroup/);
    }
  });

  it("gets SIGTERM, all save and end well", async () => {
    const out = temporaryFolder();
    const order: TrainOrder = { run: { outputDir: out, sinks: [], checkpointEvery: {} }, globalBatchSize: 16 };
    const ranks = await startRanks<{ events: TrainEvent[] }>("train.ts", { size: 2, args: [JSON.stringify(order)] });
    await new Promise<void>((resolve) => {
      ranks[1].child.stdout?.on("data", (text) => /step [3-9]/.test(String(text)) && resolve());
    });
    ranks[1].child.kill("SIGTERM");
    const ends = await Promise.all(ranks.map(({ ended }) => ended));
    for (const { code, result, stderr } of ends) {
      expect(code, stderr).toBe(0);
      expect(result?.events.at(-1)).toMatchObject({ type: "aborted", checkpoint: expect.stringContaining(out) });
    }
  });
});

describe("kill -9 of a random process at a random moment", () => {
  it("twenty times, with restarts, changes nothing about the weights at the end", async () => {
    // Eight steps of sixteen sequences leave time to be hit while computing, talking or saving.
    const settings: TrainOrder = {
      globalBatchSize: 16,
      run: { checkpointEvery: { steps: 1 }, parallel: { shard: 2 } },
    };
    const undisturbed = await train(2, settings);
    let kills = 0;
    while (kills < 20) {
      const out = temporaryFolder();
      const order: TrainOrder = { ...settings, run: { ...settings.run, outputDir: out, sinks: [], resume: true } };
      for (let attempt = 0; ; attempt++) {
        const env = { TORCHELASTIC_RESTART_COUNT: String(attempt), TORCHELASTIC_MAX_RESTARTS: "100" };
        const ranks = await startRanks("train.ts", { size: 2, args: [JSON.stringify(order)], env });
        const victim = ranks[Math.floor(Math.random() * 2)];
        const isLast = kills >= 20 || attempt >= 7;
        if (!isLast) {
          await Promise.race([
            new Promise<void>((resolve) => victim.child.stdout?.on("data", () => resolve())),
            victim.ended,
          ]);
          await new Promise((done) => setTimeout(done, Math.random() * 250));
          if (victim.child.exitCode === null && victim.child.kill("SIGKILL")) kills++;
        }
        const ends = await Promise.all(ranks.map(({ ended }) => ended));
        if (ends.every(({ code }) => code === 0)) break;
        expect(isLast, ends.map(({ stderr }) => stderr).join("\n")).toBe(false);
      }
      const weights = await finalWeights(out);
      expect(weights).toEqual(undisturbed.weights);
      expectClose(weights, undisturbed.weights);
    }
  }, 1_200_000);
});
