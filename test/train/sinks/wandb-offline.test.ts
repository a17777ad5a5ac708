import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { type WandbOptions, wandb } from "../../../lib/train/index.js";
import { OfflineRun } from "../../../lib/train/sinks/wandb/offline-run.js";
import { collect, stepsOf, temporaryFolder, tinyModel, tinyStages } from "../support.js";

let folder: string;
beforeEach(() => {
  folder = temporaryFolder();
  vi.stubEnv("WANDB_DIR", folder);
});
afterEach(() => vi.unstubAllEnvs());

async function train(options: WandbOptions) {
  using model = tinyModel();
  return await collect(tinyStages(), { model, seed: 3, sinks: [wandb(options)] });
}

/** The records of a file of W&B's, whose pieces are all whole: LevelDB's log format with CRC-32. */
function recordsOf(path: string): Buffer[] {
  const file = readFileSync(path);
  expect([...file.subarray(0, 7)]).toEqual([...Buffer.from(":W&B"), 0xe1, 0xbe, 0]);
  const records: Buffer[] = [];
  let parts: Buffer[] = [];
  for (let at = 7; at < file.length; ) {
    const left = 32_768 - (at % 32_768);
    if (left < 7) {
      at += left;
      continue;
    }
    const [crc, length, kind] = [file.readUInt32LE(at), file.readUInt16LE(at + 4), file[at + 6]];
    const data = file.subarray(at + 7, at + 7 + length);
    expect(data).toHaveLength(length);
    expect(length + 7).toBeLessThanOrEqual(left);
    expect(crc32(file.subarray(at + 6, at + 7 + length))).toBe(crc);
    expect(kind === 1 || kind === 2).toBe(parts.length === 0);
    parts.push(data);
    if (kind === 1 || kind === 4) {
      records.push(Buffer.concat(parts));
      parts = [];
    }
    at += 7 + length;
  }
  expect(parts).toEqual([]);
  return records;
}

type Fields = Map<number, (number | Buffer)[]>;

/** The fields of a protobuf message: numbers and bytes. */
function fieldsOf(bytes: Buffer): Fields {
  const fields: Fields = new Map();
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    expect([0, 2]).toContain(key % 8);
    const value = varint();
    const field = fields.get(key >> 3) ?? [];
    fields.set(key >> 3, field);
    if (key % 8 === 0) field.push(value);
    else {
      field.push(bytes.subarray(at, at + value));
      at += value;
    }
  }
  return fields;
}

const one = (fields: Fields, number: number) => fields.get(number)?.[0] as Buffer;
/** Items of config (key 1), history and summary (nested_key 2), with value_json 16. */
const itemsOf = (fields: Fields, keyField: number) =>
  Object.fromEntries(
    (fields.get(1) ?? []).map((item) => {
      const parts = fieldsOf(item as Buffer);
      return [String(one(parts, keyField)), JSON.parse(String(one(parts, 16)))];
    }),
  );

it("offline: writes the file that `wandb sync` reads, with every step, the settings and the end", async () => {
  let told = "";
  const onFolder = (path: string) => {
    told = path;
  };
  // Longer than two blocks of the file, so that records are cut.
  const name = "a run's name ".repeat(6000);
  const events = await train({ project: "mine", entity: "team", name, mode: "offline", onFolder });
  const [made] = readdirSync(join(folder, "wandb"));
  expect(made).toMatch(/^offline-run-\d{8}_\d{6}-[a-z0-9]{8}$/);
  expect(told).toBe(join(folder, "wandb", made));
  const records = recordsOf(join(told, `run-${made.slice(-8)}.wandb`)).map(fieldsOf);
  expect(records.map((record) => one(record, 1))).toEqual(records.map((_, i) => i + 1));

  expect(String(one(fieldsOf(one(fieldsOf(one(records[0], 21)), 1)), 2))).toBe("0.70.0");
  const run = fieldsOf(one(records[1], 17));
  expect([1, 2, 3, 8].map((field) => String(one(run, field)))).toEqual([made.slice(-8), "team", "mine", name]);
  expect(itemsOf(fieldsOf(one(run, 4)), 1)).toMatchObject({ seed: 3, device: "cpu", "stages/cpt/steps": 8 });

  const history = records.flatMap((record) => record.get(2) ?? []).map((bytes) => fieldsOf(bytes as Buffer));
  const steps = stepsOf(events);
  expect(history.map((row) => one(fieldsOf(one(row, 2)), 1))).toEqual(steps.map(({ globalStep }) => globalStep));
  for (const [i, { globalStep, metrics }] of steps.entries()) {
    expect(itemsOf(history[i], 2)).toMatchObject({ _step: globalStep, "train/loss": metrics.loss });
  }
  const summary = Object.assign(
    {},
    ...records.flatMap((record) => record.get(3) ?? []).map((bytes) => itemsOf(fieldsOf(bytes as Buffer), 2)),
  );
  expect(summary).toMatchObject({ "run/state": "done", _step: steps.length });
  expect(one(fieldsOf(one(records.at(-1) as Fields, 18)), 1)).toBe(0);
});

it("cuts records rightly wherever a block ends", () => {
  vi.useFakeTimers({ toFake: ["Date"], now: 1_700_000_000_123 }); // so that only the name's length moves the end
  try {
    const ends = (length: number) => {
      const run = new OfflineRun({ project: "mine", name: "x".repeat(length), config: {} });
      const path = join(run.folder, `run-${run.folder.slice(-8)}.wandb`);
      const end = statSync(path).size;
      run.log({ loss: 1 }, { step: 1 });
      run.finish();
      expect(recordsOf(path).map((record) => one(fieldsOf(record), 1))).toEqual([1, 2, 3, 4, 5]);
      return end;
    };
    const length = 32_000 + (32_768 - ends(32_000));
    const left = Array.from({ length: 24 }, (_, i) => (65_536 - ends(length - i)) % 32_768);
    expect(left).toEqual(expect.arrayContaining([0, 1, 6, 7, 8])); // 7: the header of a first piece without data
  } finally {
    vi.useRealTimers();
  }
});

it("takes the mode from WANDB_MODE as Python's wandb does, and needs no SDK for it", async () => {
  vi.stubEnv("WANDB_MODE", "disabled");
  await train({ project: "mine" });
  expect(readdirSync(folder)).toEqual([]);
  vi.stubEnv("WANDB_MODE", "dryrun");
  await train({ project: "mine" });
  expect(readdirSync(join(folder, "wandb"))).toHaveLength(1);
  vi.stubEnv("WANDB_MODE", "ofline");
  expect(() => wandb({ project: "mine" })).toThrow(
    expect.objectContaining({
      code: "TRAIN_OPTIONS",
      message: expect.stringMatching(/WANDB_MODE is "ofline", allowed/),
    }),
  );
});
