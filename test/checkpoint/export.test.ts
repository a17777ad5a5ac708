import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { exportCheckpoint } from "../../lib/checkpoint/export.js";
import { StableDiffCoder } from "../../lib/checkpoint/index.js";
import * as torch from "../../lib/torch/index.js";
import { fixture } from "../nn/golden.js";
import { bitsOf, contentOf, contentsOf, savedBy, saveTogether, storesOf, temporaryFolder, trained } from "./support.js";

const TOKENIZER = fileURLToPath(new URL("../../assets/tokenizer", import.meta.url));

/** All files of a folder. */
const filesIn = (folder: string) =>
  Object.fromEntries(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name))]));

describe("an export of shards", () => {
  it("is byte for byte what a single process saves, with the tokenizer", async () => {
    const whole = trained();
    const run = temporaryFolder();
    const parts = { filesFrom: TOKENIZER };
    const folder = await torch.scope(async () => {
      const contents = contentsOf(whole, 3).map((content) => ({ ...content, ...parts }));
      return (await saveTogether(storesOf(run, 3), "final", contents)).path;
    });
    const alone = new (await import("../../lib/checkpoint/index.js")).CheckpointStore(temporaryFolder(), 2);
    const expected = filesIn(await alone.save("final", contentOf(whole, 1, parts)));
    for (const name of ["optimizer.state", "trainer.json", "manifest.json"]) delete expected[name];
    const target = join(run, "exported");
    const seen: { tensor: string; done: number; total: number }[] = [];
    await exportCheckpoint(folder, target, { onProgress: (progress) => seen.push(progress) });
    const written = filesIn(target);
    expect(Object.keys(written)).toEqual(Object.keys(expected));
    for (const [name, bytes] of Object.entries(expected)) expect(written[name].equals(bytes), name).toBe(true);
    expect(seen).toHaveLength(whole.model.parameters().length);
    expect(seen.at(-1)?.done).toBe(whole.model.numParameters() * 4);
    expect(seen.at(-1)?.total).toBe(seen.at(-1)?.done);
  });

  it("in another dtype and in several files is what savePretrained makes of the model", async () => {
    const { found } = await savedBy(4, trained());
    using loaded = await StableDiffCoder.fromPretrained(found.path);
    const [target, expected] = [temporaryFolder(), temporaryFolder()];
    const options = { dtype: "bfloat16", maxShardBytes: 5000 } as const;
    await exportCheckpoint(found.path, target, options);
    await loaded.savePretrained(expected, options);
    const [written, wanted] = [filesIn(target), filesIn(expected)];
    expect(Object.keys(written).length).toBeGreaterThan(4);
    expect(Object.keys(written)).toEqual(Object.keys(wanted));
    for (const [name, bytes] of Object.entries(wanted)) expect(written[name].equals(bytes), name).toBe(true);
  });

  it("of a model that Python wrote keeps every tensor", async () => {
    for (const name of ["llama-tied", "llama-sharded", "qwen2"]) {
      const target = join(temporaryFolder(), name);
      await exportCheckpoint(fixture(name), target);
      using before = await StableDiffCoder.fromPretrained(fixture(name));
      using after = await StableDiffCoder.fromPretrained(target);
      expect(bitsOf(after.model.namedParameters())).toEqual(bitsOf(before.model.namedParameters()));
    }
  });
});

describe("an export that fails", () => {
  it("leaves what was there, and says why", async () => {
    const { found } = await savedBy(2, trained());
    const folder = temporaryFolder();
    const target = join(folder, "model");
    await exportCheckpoint(found.path, target);
    const before = filesIn(target);
    const shard = "shard-00001-of-00002.safetensors";
    const cut = join(temporaryFolder(), "cut");
    cpSync(found.path, cut, { recursive: true });
    truncateSync(join(cut, shard), 5000);
    await expect(exportCheckpoint(cut, target)).rejects.toMatchObject({
      code: "CHECKPOINT_CORRUPT",
      message: expect.stringMatching(/shard-00001-of-00002\.safetensors cannot be read/),
    });
    const stopped = AbortSignal.abort(new Error("stopped"));
    await expect(exportCheckpoint(found.path, target, { signal: stopped })).rejects.toThrow("stopped");
    expect(readdirSync(folder)).toEqual(["model"]);
    expect(filesIn(target)).toEqual(before);
  });

  it("of a folder that is no checkpoint says what is missing", async () => {
    const folder = temporaryFolder();
    const target = join(folder, "out");
    await expect(exportCheckpoint(folder, target)).rejects.toThrow(/is no checkpoint: it has no config\.json/);
    mkdirSync(join(folder, "empty"));
    writeFileSync(join(folder, "empty", "config.json"), readFileSync(join(fixture("llama"), "config.json")));
    await expect(exportCheckpoint(join(folder, "empty"), target)).rejects.toThrow(/has neither model\.safetensors/);
    expect(existsSync(target)).toBe(false);
  });
});
