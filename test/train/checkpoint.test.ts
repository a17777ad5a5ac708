import { execFileSync, spawnSync } from "node:child_process";
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { CheckpointError, StableDiffCoder } from "../../lib/checkpoint/index.js";
import { Tokenizer } from "../../lib/tokenizer/index.js";
import { Curriculum, type RunOptions, type TrainEvent } from "../../lib/train/index.js";
import { failWriter, type WriterFaults } from "./faults.js";
import { bytesOf, Counting, collect, repeatable, stepsOf, temporaryFolder, tinyModel, tinyStages } from "./support.js";

let whole: { steps: ReturnType<typeof repeatable>[]; weights: string };
beforeAll(async () => {
  using model = tinyModel();
  const events = await collect(tinyStages(), { model, seed: 3 });
  whole = { steps: stepsOf(events).map(repeatable), weights: bytesOf(model) };
});

const checkpointsOf = (out: string) => readdirSync(join(out, "checkpoints")).sort();

/** A run that was stopped at step 10: pre-anneal (step 6), step-000008 and step-000010. */
async function stoppedRun(options: Partial<RunOptions> = {}): Promise<string> {
  const out = temporaryFolder();
  using model = tinyModel();
  const all = {
    model,
    outputDir: out,
    seed: 3,
    sinks: [],
    checkpointEvery: { steps: 2 },
    asyncCheckpoint: false as const,
    ...options,
  };
  await collect(tinyStages(), all, (event) => event.type === "checkpoint" && event.globalStep === 10);
  return out;
}

/** Goes on to the end and checks that it ends as the whole run did. */
async function goesOnFrom(out: string, step: number): Promise<TrainEvent[]> {
  using model = tinyModel({ seed: 42 });
  const events = await collect(tinyStages(), { model, outputDir: out, seed: 3, sinks: [], resume: true });
  expect(events[0]).toMatchObject({ type: "start", globalStep: step });
  expect(stepsOf(events).map(repeatable)).toEqual(whole.steps.slice(step));
  expect(bytesOf(model)).toBe(whole.weights);
  return events;
}

describe("a checkpoint", () => {
  it("is a folder in Hugging Face layout, with the tokenizer, that loads as a model", async () => {
    const out = temporaryFolder();
    const tokenizer = Tokenizer.fromPretrained(fileURLToPath(new URL("../../assets/tokenizer", import.meta.url)));
    using model = StableDiffCoder.fromConfig({ ...tinyModel().config, vocabSize: 4096 }, { tokenizer });
    await collect(tinyStages().slice(0, 1), { model, outputDir: out, sinks: [] });
    const folder = join(out, "checkpoints", "pre-anneal");
    const files = readdirSync(folder);
    for (const name of [
      "config.json",
      "model.safetensors",
      "tokenizer.json",
      "optimizer.state",
      "trainer.json",
      "manifest.json",
    ]) {
      expect(files).toContain(name);
    }
    using loaded = await StableDiffCoder.fromPretrained(folder);
    expect(loaded.hasTokenizer).toBe(true);
    expect(bytesOf(loaded.model)).toBe(bytesOf(model.model));
    expect(JSON.parse(readFileSync(join(folder, "trainer.json"), "utf8"))).toMatchObject({
      progress: { stage: 1, step: 0, globalStep: 6, positions: [24], tokens: 384 },
      facts: { seed: 0, stages: [{ name: "compress" }] },
    });
  });

  it("keeps the last ones and all named ones", async () => {
    expect(checkpointsOf(await stoppedRun())).toEqual(["pre-anneal", "step-000008", "step-000010"]);
    expect(checkpointsOf(await stoppedRun({ keepLatest: 1 }))).toEqual(["pre-anneal", "step-000010"]);
  });
});

describe("a damaged checkpoint is passed over for the one before", () => {
  const newest = (out: string) => join(out, "checkpoints", "step-000010");
  it.each<[string, (folder: string) => void, RegExp]>([
    [
      "truncated weights",
      (folder) => truncateSync(join(folder, "model.safetensors"), 1000),
      /model\.safetensors has 1000 bytes instead of \d+/,
    ],
    [
      "a truncated optimiser",
      (folder) => truncateSync(join(folder, "optimizer.state"), 0),
      /optimizer\.state has 0 bytes/,
    ],
    ["a flipped bit", flipBit, /optimizer\.state does not match its checksum/],
    ["a missing file", (folder) => rmSync(join(folder, "optimizer.state")), /optimizer\.state is missing/],
    ["no manifest", (folder) => rmSync(join(folder, "manifest.json")), /it has no manifest\.json/],
    ["a torn manifest", (folder) => truncateSync(join(folder, "manifest.json"), 40), /manifest\.json is damaged/],
    ["no trainer.json", (folder) => rmSync(join(folder, "trainer.json")), /it has no trainer\.json/],
    [
      "a torn trainer.json",
      (folder) => truncateSync(join(folder, "trainer.json"), 60),
      /trainer\.json is not valid JSON/,
    ],
    [
      "another trainer.json",
      (folder) => writeFileSync(join(folder, "trainer.json"), '{"format": 7}'),
      /of another version/,
    ],
  ])("%s", async (_, damage, message) => {
    const out = await stoppedRun();
    damage(newest(out));
    const events = await goesOnFrom(out, 8);
    const warning = events.find(({ type }) => type === "warning");
    expect(warning).toMatchObject({ code: "CHECKPOINT_CORRUPT", message: expect.stringMatching(message) });
    expect(warning).toMatchObject({ message: expect.stringMatching(/resuming from step-000008/) });
  });

  it("and the named one counts, too", async () => {
    const out = await stoppedRun();
    for (const name of ["step-000008", "step-000010"]) truncateSync(join(out, "checkpoints", name, "config.json"), 3);
    await goesOnFrom(out, 6);
  });

  it("but when none is whole it is an error, and nothing is lost", async () => {
    const out = await stoppedRun();
    for (const name of checkpointsOf(out)) truncateSync(join(out, "checkpoints", name, "model.safetensors"), 9);
    using model = tinyModel();
    const run = collect(tinyStages(), { model, outputDir: out, seed: 3, resume: true });
    await expect(run).rejects.toMatchObject({
      code: "TRAIN_CHECKPOINT_CORRUPT",
      message: expect.stringMatching(/pre-anneal: /),
    });
    expect(checkpointsOf(out)).toHaveLength(3);
  });
});

function flipBit(folder: string): void {
  const path = join(folder, "optimizer.state");
  const bytes = readFileSync(path);
  bytes[bytes.length - 100] ^= 4;
  writeFileSync(path, bytes);
}

describe("a full disk", () => {
  it("at any point of a save keeps the earlier checkpoints and the training", async () => {
    let calls = Number.POSITIVE_INFINITY;
    for (let at = 1; at <= calls; at += at < 4 || at > calls - 4 ? 1 : 5) {
      const out = temporaryFolder();
      using model = tinyModel();
      let faults: WriterFaults | undefined;
      const events: TrainEvent[] = [];
      const options = {
        model,
        outputDir: out,
        seed: 3,
        sinks: [],
        checkpointEvery: { steps: 3 },
        asyncCheckpoint: false as const,
      };
      const start = Number.isFinite(calls) ? at : 0; // the first round only counts the calls
      for await (const event of new Curriculum(tinyStages().slice(0, 2)).run(options)) {
        events.push(event);
        // The disk is full while the checkpoint of step 9 is written.
        if (event.type === "step" && event.globalStep === 9) faults = failWriter(start);
        if (event.type === "step" && event.globalStep === 10) {
          if (!Number.isFinite(calls)) calls = faults?.count ?? 0;
          faults?.[Symbol.dispose]();
        }
      }
      expect(stepsOf(events)).toHaveLength(14);
      if (start === 0) {
        expect(calls).toBeGreaterThan(15);
        at = 0;
        continue;
      }
      const warning = events.find(({ type }) => type === "warning");
      // Past the last rename the checkpoint is there, whatever happens to what is flushed or removed after it.
      if (existsSync(join(out, "checkpoints", "step-000009"))) continue;
      expect(warning).toMatchObject({
        code: "CHECKPOINT_WRITE",
        message: expect.stringMatching(/ENOSPC.*Training continues/),
      });
      expect(checkpointsOf(out)).toEqual(["final", "pre-anneal", "step-000003", "step-000012"]);
    }
  });

  it("ends the run when it is strict, and the earlier checkpoints are whole", async () => {
    const out = temporaryFolder();
    using model = tinyModel();
    const options = { model, outputDir: out, seed: 3, sinks: [], strict: true, checkpointEvery: { steps: 2 } };
    const sync = { ...options, asyncCheckpoint: false as const };
    let watch: Disposable | undefined;
    const run = collect(tinyStages(), sync, (event) => {
      if (event.type === "step" && event.globalStep === 9) {
        watch = failWriter(1, { only: "writeSync" });
      }
      return false;
    });
    await expect(run).rejects.toMatchObject({ code: "TRAIN_CHECKPOINT_WRITE", cause: expect.any(CheckpointError) });
    watch?.[Symbol.dispose]();
    expect(checkpointsOf(out)).toEqual(["pre-anneal", "step-000004", "step-000008"]);
    await goesOnFrom(out, 8);
  });

  it("at the very end is an error: the work would be lost in silence", async () => {
    const out = temporaryFolder();
    using model = tinyModel();
    let watch: Disposable | undefined;
    const events: TrainEvent[] = [];
    const run = (async () => {
      for await (const event of new Curriculum(tinyStages()).run({
        model,
        outputDir: out,
        seed: 3,
        sinks: [],
        retrySaving: 0,
      })) {
        events.push(event);
        if (event.type !== "step" || event.globalStep !== 18) continue;
        watch = failWriter(1, { only: "writeSync" });
      }
    })();
    await expect(run).rejects.toMatchObject({
      code: "TRAIN_CHECKPOINT_WRITE",
      message: expect.stringMatching(/still in memory/),
    });
    watch?.[Symbol.dispose]();
    expect(bytesOf(model)).toBe(whole.weights);
    await goesOnFrom(out, 14);
  });

  it("at the very end is tried again until there is space, with the way out", async () => {
    const out = temporaryFolder();
    using model = tinyModel();
    let watch: Disposable | undefined;
    const warnings: string[] = [];
    for await (const event of new Curriculum(tinyStages()).run({ model, outputDir: out, seed: 3, sinks: [] })) {
      if (event.type === "step" && event.globalStep === 18) watch = failWriter(1, { only: "writeSync" });
      if (event.type !== "warning") continue;
      warnings.push(event.message);
      if (/Retrying in/.test(event.message)) watch?.[Symbol.dispose]();
    }
    expect(warnings.at(-1)).toMatch(
      /free space on the disk of .*checkpoints, or move .*symbolic link.* Retrying in 1 s/,
    );
    expect(checkpointsOf(out)).toContain("final");
    await goesOnFrom(out, 18);
  });

  it("when the consumer stops early is an error, too", async () => {
    const out = temporaryFolder();
    using model = tinyModel();
    let watch: Disposable | undefined;
    const run = collect(tinyStages(), { model, outputDir: out, seed: 3, sinks: [] }, (event) => {
      if (event.type !== "step" || event.globalStep !== 8) return false;
      watch = failWriter(1, { only: "writeSync" });
      return true;
    });
    await expect(run).rejects.toMatchObject({ code: "TRAIN_CHECKPOINT_WRITE" });
    watch?.[Symbol.dispose]();
    expect(checkpointsOf(out)).toEqual(["pre-anneal"]);
  });

  it("of a real small file system", async ({ skip }) => {
    const out = temporaryFolder();
    const { status } = spawnSync("mount", ["-t", "tmpfs", "-o", "size=280k", "tmpfs", out]);
    if (status !== 0) skip("mounting a file system is not allowed here");
    try {
      using model = tinyModel();
      const options = {
        model,
        outputDir: out,
        seed: 3,
        sinks: [],
        checkpointEvery: { steps: 1 },
        keepLatest: 100,
        retrySaving: 0,
      };
      const events: TrainEvent[] = [];
      await expect(
        (async () => {
          for await (const event of new Curriculum(tinyStages()).run(options)) events.push(event);
        })(),
      ).rejects.toMatchObject({ code: "TRAIN_CHECKPOINT_WRITE" });
      expect(stepsOf(events)).toHaveLength(18);
      expect(events).toContainEqual(
        expect.objectContaining({ code: "CHECKPOINT_WRITE", message: expect.stringMatching(/ENOSPC/) }),
      );
      const saved = checkpointsOf(out);
      expect(saved.filter((name) => name.startsWith("."))).toEqual([]);
      const copy = temporaryFolder();
      cpSync(out, copy, { recursive: true });
      const last = events.filter(({ type }) => type === "checkpoint").at(-1) as { globalStep: number };
      await goesOnFrom(copy, last.globalStep);
    } finally {
      execFileSync("umount", [out]);
    }
  });
});

describe("a process killed while it saves", () => {
  const child = fileURLToPath(new URL("killed-child.ts", import.meta.url));
  const kill = (out: string, at: number) =>
    spawnSync(process.execPath, ["--import", import.meta.resolve("tsx"), child, out, String(at)], {
      encoding: "utf8",
      timeout: 600_000,
    });

  // Of the checkpoint of step 4: before its folder, in the weights, between weights and optimiser, before the manifest is
  // complete, and before the rename that makes it count.
  it.each([1, 4, 9, 14, 20])("before its writing call %i goes on from a whole checkpoint", async (at) => {
    const out = temporaryFolder();
    const { signal, stderr } = kill(out, at);
    expect(signal, stderr).toBe("SIGKILL");
    expect(existsSync(join(out, "lock"))).toBe(true); // nobody took it away
    const saved = checkpointsOf(out).filter((name) => !name.startsWith("."));
    const step = saved.includes("step-000004") ? 4 : 2;
    await goesOnFrom(out, step);
    expect(checkpointsOf(out).filter((name) => name.startsWith("."))).toEqual([]);
  });
});

describe("another run's folder", () => {
  it("is not begun anew by accident", async () => {
    const out = await stoppedRun();
    using model = tinyModel();
    const again = (options: object) =>
      collect(tinyStages(), { model, outputDir: out, seed: 3, sinks: [], ...options }, () => true);
    await expect(again({})).rejects.toMatchObject({
      code: "TRAIN_RUN_EXISTS",
      message: expect.stringMatching(/resume: true.*overwrite: true/),
    });
    expect(checkpointsOf(out)).toHaveLength(3);
    await again({ overwrite: true });
    expect(checkpointsOf(out)).toHaveLength(0);
  });

  it.each<[string, () => Promise<unknown>, RegExp[]]>([
    ["model", async () => resumeWith({ hiddenSize: 32 }), [/model\.hiddenSize: 16, 32/, /model\.headDim: 8, 16/]],
    ["seed", async () => resumeWith({}, { seed: 4 }), [/^ {2}seed: 3, 4$/m]],
    [
      "curriculum",
      async () => resumeWith({}, {}, tinyStages({ blockSize: 2, globalBatchSize: 8, lr: 1e-3 })),
      [
        /stages\[1\]\.objective\.blockSize: 4, 2/,
        /stages\[1\]\.globalBatchSize: 4, 8/,
        /stages\[1\]\.rates\[0\]: 1, 0\.001/,
      ],
    ],
    [
      "data",
      async () =>
        resumeWith(
          {},
          {},
          tinyStages().map((stage) => ({ ...stage, data: new Counting(40) })),
        ),
      [/data\.hash: "counting 37 16 48", "counting 40 16 48"/, /data\.numSamples: 37, 40/],
    ],
  ])("of another %s is refused with the differences", async (_, run, messages) => {
    for (const message of messages) {
      await expect(run()).rejects.toMatchObject({
        code: "TRAIN_RESUME_MISMATCH",
        message: expect.stringMatching(message),
      });
    }
  });

  async function resumeWith(model: { hiddenSize?: number }, options: Partial<RunOptions> = {}, stages = tinyStages()) {
    const out = await stoppedRun();
    using other = tinyModel(model);
    const before = bytesOf(other);
    try {
      return await collect(stages, { model: other, outputDir: out, seed: 3, sinks: [], resume: true, ...options });
    } finally {
      expect(bytesOf(other)).toBe(before);
    }
  }

  it("may have other stages to come, and more memory", async () => {
    const out = await stoppedRun();
    using model = tinyModel();
    const [first, second, third] = tinyStages();
    const stages = [first, { ...second, gradientAccumulationSteps: 2 }, { ...third, end: { steps: 2 } }];
    const events = await collect(stages, { model, outputDir: out, seed: 3, sinks: [], resume: true });
    expect(stepsOf(events)).toHaveLength(6);
  });
});

describe("the lock", () => {
  it("keeps a second run out, in this process and others", async () => {
    const out = temporaryFolder();
    using model = tinyModel();
    const run = new Curriculum(tinyStages()).run({ model, outputDir: out, sinks: [] });
    await run.next();
    using second = tinyModel();
    const other = collect(tinyStages(), { model: second, outputDir: out, sinks: [], resume: true });
    await expect(other).rejects.toMatchObject({
      code: "TRAIN_RUN_LOCKED",
      message: expect.stringMatching(`process ${process.pid}`),
    });
    await run.return();
    await collect(tinyStages(), { model: second, outputDir: out, sinks: [], resume: true }, () => true);
  });

  it("of a process that is gone is taken over, also when its number is another process's now", async () => {
    const gone = spawnSync(process.execPath, ["-e", ""]).pid;
    const since = new Date().toISOString();
    for (const holder of [
      { pid: gone, host: hostname(), began: null, since },
      { pid: process.ppid, host: hostname(), began: "1", since },
    ]) {
      const out = temporaryFolder();
      writeFileSync(join(out, "lock"), JSON.stringify(holder));
      using model = tinyModel();
      if (holder.began !== null && !existsSync("/proc/self/stat")) continue; // no other way to tell
      await collect(tinyStages(), { model, outputDir: out, sinks: [] }, () => true);
      expect(existsSync(join(out, "lock"))).toBe(false);
    }
  });

  it("of another machine is believed", async () => {
    const out = temporaryFolder();
    writeFileSync(join(out, "lock"), JSON.stringify({ pid: 1, host: "elsewhere", began: null, since: "yesterday" }));
    using model = tinyModel();
    const run = collect(tinyStages(), { model, outputDir: out, sinks: [] });
    await expect(run).rejects.toThrow(/process 1 on elsewhere.*remove .*lock/);
  });

  it("that is half written or no lock is no lock", async () => {
    const out = temporaryFolder();
    mkdirSync(out, { recursive: true });
    copyFileSync(fileURLToPath(import.meta.url), join(out, "lock"));
    using model = tinyModel();
    await collect(tinyStages(), { model, outputDir: out, sinks: [] }, () => true);
  });
});
