import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { type StepEvent, tensorboard } from "../../../lib/train/index.js";
import {
  crc32c,
  type EventContent,
  encodeEvent,
  maskedCrc32c,
  record,
} from "../../../lib/train/sinks/tensorboard/event-file.js";
import { diskFull, watchWrites } from "../faults.js";
import { collect, stepsOf, temporaryFolder, tinyModel, tinyStages } from "../support.js";
import { curves, eventFiles, fieldsOf, readRecords } from "./event-reader.js";

const golden = JSON.parse(
  readFileSync(new URL("../../fixtures/tensorboard/records.json", import.meta.url), "utf8"),
) as Record<string, string>;

const python = process.env.DIFFCODER_PYTHON ?? "python3";
const hasTensorBoard = spawnSync(python, ["-c", "import tensorboard"]).status === 0;

/** Eighteen steps in three stages, or as many as `until`. */
async function train(out: string, until = Number.POSITIVE_INFINITY, resume = false) {
  using model = tinyModel();
  const sinks = [tensorboard()];
  const [first, second, third] = tinyStages();
  const sample = { every: 4, run: () => [{ prompt: "def f(", text: "x):\n```\n````", note: "4 forwards" }] };
  const stages = [first, { ...second, sample, evaluate: { every: 4, run: () => ({ bits_per_byte: 2.5 }) } }, third];
  return await collect(
    stages,
    { model, outputDir: out, seed: 3, sinks, resume, checkpointEvery: { steps: 5 } },
    (event) => event.type === "step" && event.globalStep >= until,
  );
}

describe("event files", () => {
  it("have checksums as the standard says", () => {
    expect(crc32c(Buffer.from("123456789"))).toBe(0xe3069283);
    expect(crc32c(Buffer.alloc(32))).toBe(0x8a9136aa); // RFC 3720, B.4
    expect(crc32c(Buffer.alloc(32, 0xff))).toBe(0x62a8ab43);
  });

  it.each<[string, number, EventContent]>([
    ["version", 0, { kind: "version" }],
    ["start", 301, { kind: "start" }],
    ["scalars", 5_000_000_000, { kind: "scalars", values: { "train/loss": 2.5, "speed/mfu": 0.1 } }],
    ["text", 5, { kind: "text", tag: "samples/0", text: "é x" }],
  ])("have the bytes that TensorBoard writes: %s", (name, step, content) => {
    expect(record(encodeEvent(1700000000.5, step, content)).toString("hex")).toBe(golden[name]);
  });
});

describe("tensorboard", () => {
  it("writes every metric of every step, samples, evaluations and what the run was made with", async () => {
    const out = temporaryFolder();
    const events = await train(out);
    const folder = join(out, "tensorboard");
    const [path, ...more] = eventFiles(folder);
    expect(more).toEqual([]);
    expect(path).toMatch(/events\.out\.tfevents\.\d{10}\..+\.\d+\.0$/);
    const written = readRecords(readFileSync(path), maskedCrc32c);
    expect(written[0]).toMatchObject({ version: "brain.Event:2", step: 0 });
    expect(written[1]).toMatchObject({ isStart: true, step: 0 });
    expect(Math.abs(written[0].time - Date.now() / 1000)).toBeLessThan(60);

    const shown = curves(folder, maskedCrc32c);
    for (const { globalStep, metrics } of stepsOf(events)) {
      const at = (tag: string) => shown[tag].find(([step]) => step === globalStep)?.[1];
      expect(at("train/loss")).toBe(Math.fround(metrics.loss));
      expect(at("speed/tokens_per_second")).toBe(Math.fround(metrics.tokens_per_second));
      expect(at("memory/rss")).toBe(Math.fround(metrics.rss));
      if (metrics.u_max !== undefined) expect(at("diffusion/u_max")).toBe(Math.fround(metrics.u_max));
    }
    expect(shown["train/stage"].map(([, stage]) => stage)).toEqual([
      ...Array(6).fill(0),
      ...Array(8).fill(1),
      2,
      2,
      2,
      2,
    ]);
    expect(shown["evaluation/bits_per_byte"]).toEqual([
      [10, 2.5],
      [14, 2.5],
    ]);
    const texts = written.flatMap(({ texts }) => Object.entries(texts));
    expect(texts.filter(([tag]) => tag === "samples/0").map(([, text]) => text)).toEqual(
      Array(2).fill("`````\ndef f(x):\n```\n````\n`````\n\n4 forwards"),
    );
    expect(Object.fromEntries(texts).run).toContain("| stages/cpt/steps | 8 |");
    expect(texts.filter(([tag]) => tag === "stage")).toHaveLength(3);
    const plugins = Object.assign({}, ...written.map(({ plugins }) => plugins)) as Record<string, Buffer>;
    expect(Object.keys(plugins)).toEqual(["_hparams_/session_start_info", "_hparams_/session_end_info"]);
    const [start] = fieldsOf(plugins["_hparams_/session_start_info"]);
    expect(fieldsOf(start.value as Buffer).filter(({ field }) => field === 1).length).toBeGreaterThan(20);
  });

  it("supersedes what came after the checkpoint that a run goes on from", async () => {
    const out = temporaryFolder();
    await train(out, 9);
    const folder = join(out, "tensorboard");
    const first = curves(folder, maskedCrc32c)["train/loss"];
    // As the run itself would do it after a crash: from step 5 on, once more.
    const again = tensorboard();
    const run = {
      outputDir: out,
      parameters: 1,
      model: "m",
      device: "cpu",
      seed: 0,
      stages: [],
      versions: {},
      startedAt: "",
    };
    const at = { stage: 0, name: "a", step: 5, globalStep: 5 };
    await again.write({ type: "start", globalStep: 5, run, resumed: { ...at, checkpoint: "x" } });
    const step: StepEvent = {
      type: "step",
      ...at,
      step: 6,
      globalStep: 6,
      steps: 9,
      tokens: 1,
      elapsed: 1,
      metrics: { loss: 77 },
    };
    await again.write(step);
    await again.close?.();
    expect(eventFiles(folder)).toHaveLength(2);
    expect(curves(folder, maskedCrc32c)["train/loss"]).toEqual([...first.slice(0, 5), [6, 77]]);
  });

  it("has a curve for each rank, unless they are too many", async () => {
    const folder = temporaryFolder();
    const run = { parameters: 1, model: "m", device: "cpu", seed: 0, stages: [], versions: {}, startedAt: "" };
    const at = { stage: 0, name: "a", step: 1, globalStep: 1 };
    const rank = (rank: number) => ({ rank, seconds: 0.5 + rank, dataSeconds: 0.25, rss: 1024 });
    const metrics = { ranks: 2, communication_share: 0.125, straggler: 0.5 };
    const sink = tensorboard(folder);
    await sink.write({ type: "start", globalStep: 0, run });
    const step = { type: "step" as const, ...at, steps: 2, tokens: 1, elapsed: 1, metrics };
    await sink.write({ ...step, perRank: [rank(0), rank(1)] });
    await sink.write({ ...step, globalStep: 2, perRank: Array.from({ length: 100 }, (_, i) => rank(i)) });
    await sink.close?.();
    const shown = curves(folder, maskedCrc32c);
    expect(shown["distributed/communication_share"]).toEqual([
      [1, 0.125],
      [2, 0.125],
    ]);
    expect(shown["ranks/step_seconds/1"]).toEqual([[1, 1.5]]);
    expect(shown["ranks/step_seconds/99"]).toBeUndefined();
  });

  it("a full disk tears no record: the file goes on", async () => {
    const folder = temporaryFolder();
    const run = { parameters: 1, model: "m", device: "cpu", seed: 0, stages: [], versions: {}, startedAt: "" };
    const sink = tensorboard(folder);
    await sink.write({ type: "start", globalStep: 0, run });
    const [path] = eventFiles(folder);
    const { size } = statSync(path);
    const at = (globalStep: number) => ({ stage: 0, name: "a", step: globalStep, globalStep });
    const step = (globalStep: number): StepEvent => ({
      type: "step",
      ...at(globalStep),
      steps: 9,
      tokens: 1,
      elapsed: 1,
      metrics: { loss: globalStep },
    });
    {
      using _watch = watchWrites((_, call) => {
        if (call === "writeSync") throw diskFull(call);
      });
      expect(() => sink.write(step(1))).toThrow("ENOSPC");
    }
    expect(statSync(path).size).toBe(size);
    await sink.write(step(2));
    await sink.close?.();
    expect(curves(folder, maskedCrc32c)["train/loss"]).toEqual([[2, 2]]);
  });

  it("wants a folder", async () => {
    const run = { parameters: 1, model: "m", device: "cpu", seed: 0, stages: [], versions: {}, startedAt: "" };
    expect(() => tensorboard().write({ type: "start", globalStep: 0, run })).toThrow(
      /no folder.*tensorboard\(FOLDER\)/,
    );
  });

  it.skipIf(!hasTensorBoard)("is read by TensorBoard, before and after a resume", async () => {
    const out = temporaryFolder();
    await train(out, 9);
    const events = await train(out, Number.POSITIVE_INFINITY, true);
    expect(events[0]).toMatchObject({ type: "start", globalStep: 9 });
    const script = `
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
run = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "tensors": 0})
run.Reload()
info = HParamsPluginData.FromString(run.PluginTagToContent("hparams")["_hparams_/session_start_info"])
print(json.dumps({
  "loss": [[event.step, event.value] for event in run.Scalars("train/loss")],
  "tags": run.Tags()["scalars"],
  "texts": {tag: run.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in run.PluginTagToContent("text")},
  "seed": info.session_start_info.hparams["seed"].number_value,
  "kind": info.session_start_info.hparams["stages/cpt/kind"].string_value,
}))`;
    const stdout = execFileSync(python, ["-c", script, join(out, "tensorboard")], {
      stdio: ["ignore", "pipe", "ignore"],
    });
    const read = JSON.parse(stdout.toString());
    expect(read.loss).toEqual(curves(join(out, "tensorboard"), maskedCrc32c)["train/loss"]);
    expect(read.loss.map(([step]: [number]) => step)).toEqual(Array.from({ length: 18 }, (_, i) => i + 1));
    expect(read.tags).toEqual(expect.arrayContaining(["train/lr", "speed/step_seconds", "evaluation/bits_per_byte"]));
    expect(read.texts["samples/0"]).toContain("def f(x):");
    expect(read).toMatchObject({ seed: 3, kind: "block-diffusion" });
  });
});
