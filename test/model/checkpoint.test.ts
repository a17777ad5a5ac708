import { execFileSync } from "node:child_process";
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeEach, describe, expect, it } from "vitest";
import { CodedError } from "../../lib/base/coded-error.js";
import {
  CheckpointError,
  readConfig,
  replaceFolder,
  StableDiffCoder,
  saveCheckpoint,
} from "../../lib/checkpoint/index.js";
import { causalPlan, Decoder, ModelConfigError, presetConfig } from "../../lib/model/index.js";
import * as torch from "../../lib/torch/index.js";
import { difference, fixture } from "../nn/golden.js";
import { heldTensors } from "../torch/held-tensors.js";

const root = mkdtempSync(join(tmpdir(), "diffcoder-checkpoint-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

let folder: string;
let count = 0;
beforeEach(() => {
  folder = join(root, `case-${count++}`);
});

const shape = { vocabSize: 64, hiddenSize: 32, intermediateSize: 48, numHeads: 4, numLayers: 2 };
const fresh = (seed = 1) => StableDiffCoder.fromConfig({ ...presetConfig("tiny", shape) }, { seed });
const json = (path: string) => JSON.parse(readFileSync(path, "utf8"));
const edit = (path: string, change: Record<string, unknown>) =>
  writeFileSync(path, JSON.stringify({ ...json(path), ...change }));

/** A writable copy of a fixture. */
function copy(name: string): string {
  cpSync(fixture(name), folder, { recursive: true });
  return folder;
}

async function failure(path: string): Promise<CodedError<string>> {
  try {
    const coder = await StableDiffCoder.fromPretrained(path);
    coder.dispose();
  } catch (error) {
    expect(error).toBeInstanceOf(CodedError);
    return error as CodedError<string>;
  }
  throw new Error("it loaded");
}

describe("save and load", () => {
  it.each([
    ["one file", undefined, 1],
    ["shards", 20_000, 4],
  ])("returns the same bits from %s", async (_, maxShardBytes, least) => {
    using coder = fresh();
    await coder.savePretrained(folder, { maxShardBytes });
    const files = readdirSync(folder).filter((name) => name.endsWith(".safetensors"));
    expect(files.length).toBeGreaterThanOrEqual(least);
    using loaded = await StableDiffCoder.fromPretrained(folder);
    expect(loaded.config).toEqual({ ...coder.config, dtype: "float32" });
    const [before, after] = [coder.model.stateDict(), loaded.model.stateDict()];
    expect(Object.keys(after)).toEqual(Object.keys(before));
    for (const [name, tensor] of Object.entries(before)) {
      expect(after[name].toTypedArray(), name).toEqual(tensor.toTypedArray());
    }
    if (files.length > 1) {
      const index = json(join(folder, "model.safetensors.index.json"));
      expect(new Set(Object.values(index.weight_map))).toEqual(new Set(files));
      expect(index.metadata.total_size).toBe(coder.model.numParameters() * 4);
    }
  });

  it("saves and reads float64", async () => {
    using coder = fresh();
    coder.to({ dtype: "float64" });
    await coder.savePretrained(folder);
    using loaded = await StableDiffCoder.fromPretrained(folder);
    expect(loaded.model.headWeight.dtype).toBe("float64");
    expect(difference(loaded.model.headWeight, coder.model.headWeight)).toBe(0);
  });

  it.each(["llama", "llama-tied", "qwen2", "qwen3", "mistral", "linear-rope", "llama-sharded"])(
    "writes the config of %s, and its tensors under the names that transformers gave them",
    async (name) => {
      using coder = await StableDiffCoder.fromPretrained(fixture(name));
      await coder.savePretrained(folder);
      expect(readConfig(folder)).toEqual(coder.config);
      const text = readFileSync(join(folder, "config.json"), "utf8");
      using again = await StableDiffCoder.fromPretrained(folder);
      await again.savePretrained(folder);
      expect(readFileSync(join(folder, "config.json"), "utf8")).toBe(text);
      using theirs = openAll(fixture(name));
      using ours = openAll(folder);
      expect([...ours.names].sort()).toEqual([...theirs.names].sort());
      for (const tensor of ours.names) expect(difference(ours.get(tensor), theirs.get(tensor)), tensor).toBe(0);
    },
  );

  it("converts on the way in and on the way out", async () => {
    using coder = fresh();
    await coder.savePretrained(folder, { dtype: "bf16" });
    expect(json(join(folder, "config.json")).torch_dtype).toBe("bfloat16");
    using auto = await StableDiffCoder.fromPretrained(folder);
    expect(auto.model.headWeight.dtype).toBe("bfloat16");
    using wide = await StableDiffCoder.fromPretrained(folder, { dtype: "fp32" });
    expect(wide.model.headWeight.dtype).toBe("float32");
    expect(difference(wide.model.headWeight, coder.model.headWeight.bfloat16())).toBe(0);
  });

  it("copies tokenizer files, generation_config.json and model code, and keeps unknown config keys", async () => {
    const source = copy("llama");
    edit(join(source, "config.json"), { custom: { deep: [1] }, auto_map: { AutoModel: "modeling_x.X" } });
    writeFileSync(join(source, "chat_template.jinja"), "{{ messages }}");
    writeFileSync(join(source, "modeling_x.py"), "class X: pass\n");
    using coder = await StableDiffCoder.fromPretrained(source);
    const target = join(root, "with-files");
    await coder.savePretrained(target);
    for (const name of ["chat_template.jinja", "modeling_x.py", "generation_config.json"]) {
      expect(readFileSync(join(target, name), "utf8")).toBe(readFileSync(join(source, name), "utf8"));
    }
    expect(json(join(target, "config.json"))).toMatchObject({
      custom: { deep: [1] },
      auto_map: { AutoModel: "modeling_x.X" },
    });
    rmSync(join(source, "modeling_x.py"));
    await coder.savePretrained(target);
    expect(json(join(target, "config.json")).auto_map).toBeUndefined();
  });

  it("saves over the folder it came from", async () => {
    const source = copy("llama");
    using coder = await StableDiffCoder.fromPretrained(source);
    torch.noGrad(() => coder.model.norm.weight.fill_(2));
    await coder.savePretrained(source);
    using again = await StableDiffCoder.fromPretrained(source);
    expect(again.model.norm.weight.tolist()).toEqual(new Array(32).fill(2));
    expect(readdirSync(root).filter((name) => name.startsWith("."))).toEqual([]);
  });

  it("ignores what older checkpoints hold and a decoder computes: inv_freq, a tied head", async () => {
    copy("llama-tied");
    using file = openAll(folder);
    const tensors = Object.fromEntries(file.names.map((name) => [name, file.get(name)]));
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros([4]);
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone();
    torch.saveSafetensors(join(folder, "more.safetensors"), tensors, { format: "pt" });
    copyFileSync(join(folder, "more.safetensors"), join(folder, "model.safetensors"));
    using coder = await StableDiffCoder.fromPretrained(folder);
    expect(coder.model.lmHead).toBeNull();
  });
});

describe("bad checkpoints", () => {
  it.each<[string, string, (path: string) => void, string, RegExp]>([
    ["no folder", "llama", (path) => rmSync(path, { recursive: true }), "CHECKPOINT_MISSING", /does not exist/],
    ["no config", "llama", (path) => rmSync(join(path, "config.json")), "CHECKPOINT_MISSING", /has no config.json/],
    [
      "broken JSON",
      "llama",
      (path) => truncateSync(join(path, "config.json"), 40),
      "CHECKPOINT_CORRUPT",
      /config.json is not valid JSON/,
    ],
    [
      "no weights but another format",
      "llama",
      (path) => {
        rmSync(join(path, "model.safetensors"));
        writeFileSync(join(path, "pytorch_model.bin"), "");
      },
      "CHECKPOINT_MISSING",
      /neither model.safetensors nor .*index.json; pytorch_model.bin is another format/,
    ],
    [
      "truncated weights",
      "llama",
      (path) => truncateSync(join(path, "model.safetensors"), 50_000),
      "CHECKPOINT_CORRUPT",
      /model.safetensors cannot be read/,
    ],
    [
      "truncated header",
      "llama",
      (path) => truncateSync(join(path, "model.safetensors"), 100),
      "CHECKPOINT_CORRUPT",
      /model.safetensors cannot be read/,
    ],
    [
      "empty file",
      "llama",
      (path) => truncateSync(join(path, "model.safetensors"), 0),
      "CHECKPOINT_CORRUPT",
      /cannot be read/,
    ],
    [
      "missing shard",
      "llama-sharded",
      (path) => rmSync(join(path, "model-00002-of-00003.safetensors")),
      "CHECKPOINT_MISSING",
      /index.json refers to missing files: model-00002-of-00003.safetensors/,
    ],
    [
      "broken index",
      "llama-sharded",
      (path) => edit(join(path, "model.safetensors.index.json"), { weight_map: 3 }),
      "CHECKPOINT_CORRUPT",
      /model\.safetensors\.index\.json:\n {2}weight_map: expected record/,
    ],
    [
      "index outside the folder",
      "llama-sharded",
      (path) => edit(join(path, "model.safetensors.index.json"), { weight_map: { x: "../llama/model.safetensors" } }),
      "CHECKPOINT_MISSING",
      /refers to missing files/,
    ],
    [
      "other shapes",
      "llama",
      (path) => edit(join(path, "config.json"), { intermediate_size: 40 }),
      "CHECKPOINT_MISMATCH",
      /model.layers.0.mlp.gate_proj.weight in model.safetensors is \[48,32\], the config requires \[40,32\]/,
    ],
    [
      "too few layers",
      "llama",
      (path) => edit(join(path, "config.json"), { num_hidden_layers: 3 }),
      "CHECKPOINT_MISMATCH",
      /model.layers.2.input_layernorm.weight is missing, the config requires \[32\]/,
    ],
    [
      "too many layers, in a shard",
      "llama-sharded",
      (path) => edit(join(path, "config.json"), { num_hidden_layers: 1 }),
      "CHECKPOINT_MISMATCH",
      /model.layers.1.input_layernorm.weight in model-0000\d-of-00003.safetensors is not in the model/,
    ],
    [
      "a head that is not tied",
      "llama-tied",
      (path) => edit(join(path, "config.json"), { tie_word_embeddings: false }),
      "CHECKPOINT_MISMATCH",
      /lm_head.weight is missing/,
    ],
  ])("%s", async (_, name, damage, code, message) => {
    damage(copy(name));
    const before = heldTensors();
    const error = await failure(folder);
    expect([error.code, error.message]).toEqual([code, expect.stringMatching(message)]);
    expect(error.message).toContain(folder);
    expect(heldTensors()).toBe(before);
  });

  it("a config of another kind of model", async () => {
    edit(join(copy("llama"), "config.json"), { architectures: ["GPT2LMHeadModel"] });
    expect(await failure(folder)).toBeInstanceOf(ModelConfigError);
  });
});

describe("saving is all or nothing", () => {
  it("an error while writing leaves the previous checkpoint and nothing else", async () => {
    using coder = fresh();
    await coder.savePretrained(folder);
    const before = readFileSync(join(folder, "model.safetensors"));
    const failing = replaceFolder(folder, (staging) => {
      writeFileSync(join(staging, "model.safetensors"), "half");
      throw new Error("no space left on device");
    });
    await expect(failing).rejects.toThrow(CheckpointError);
    await expect(failing).rejects.toThrow(/cannot save .*: no space left on device/);
    expect(readFileSync(join(folder, "model.safetensors")).equals(before)).toBe(true);
    expect(readdirSync(root).filter((name) => name.startsWith("."))).toEqual([]);
  });

  it("a disk that is full while weights are written", async () => {
    using coder = fresh();
    await coder.savePretrained(folder);
    const before = readFileSync(join(folder, "model.safetensors"));
    const script = fileURLToPath(new URL("./save-with-limit.ts", import.meta.url));
    // The shell's limit on file sizes stands in for the disk: writes beyond 16 KiB fail with EFBIG.
    const command = `ulimit -f 16; exec "${process.execPath}" --import tsx "${script}" "${folder}"`;
    const output = execFileSync("bash", ["-c", command], { encoding: "utf8" });
    expect(output).toMatch(/^CHECKPOINT_WRITE cannot save /);
    expect(readFileSync(join(folder, "model.safetensors")).equals(before)).toBe(true);
    expect(readdirSync(root).filter((name) => name.startsWith("."))).toEqual([]);
    using loaded = await StableDiffCoder.fromPretrained(folder);
    expect(loaded.model.numParameters()).toBe(coder.model.numParameters());
  });

  it("clears away what a killed process left behind long ago, and nothing younger", async () => {
    using coder = fresh();
    const name = folder.slice(root.length + 1);
    const [old, young] = [`.${name}.1-0123abcd.tmp`, `.${name}.2-0123abcd.tmp`].map((entry) => join(root, entry));
    for (const path of [old, young]) mkdirSync(path);
    const yesterday = new Date(Date.now() - 24 * 3600 * 1000);
    utimesSync(old, yesterday, yesterday);
    await coder.savePretrained(folder);
    expect([existsSync(old), existsSync(young)]).toEqual([false, true]);
    rmSync(young, { recursive: true });
  });

  it("a process that dies between the two renames leaves the previous state readable", async () => {
    using coder = fresh();
    await coder.savePretrained(folder);
    const previous = join(root, `.${folder.slice(root.length + 1)}.previous`);
    cpSync(folder, previous, { recursive: true });
    rmSync(folder, { recursive: true });
    using loaded = await StableDiffCoder.fromPretrained(folder);
    expect(difference(loaded.model.headWeight, coder.model.headWeight)).toBe(0);
    await loaded.savePretrained(folder);
    expect([existsSync(folder), existsSync(previous)]).toEqual([true, false]);
  });
});

describe("StableDiffCoder", () => {
  it("the same seed gives the same model", () => {
    using a = fresh(7);
    using b = fresh(7);
    using c = fresh(8);
    expect(difference(a.model.headWeight, b.model.headWeight)).toBe(0);
    expect(difference(a.model.headWeight, c.model.headWeight)).toBeGreaterThan(0);
  });

  it("says that there is no tokenizer", async () => {
    using coder = await StableDiffCoder.fromPretrained(fixture("llama"));
    expect(coder.hasTokenizer).toBe(false);
    expect(() => coder.tokenizer).toThrow(/has no tokenizer.json/);
  });

  it("converts in place and still computes", () => {
    using coder = fresh();
    coder.to({ dtype: "bf16" });
    torch.scope(() => {
      const ids = torch.zeros([1, 4], { dtype: "int64" });
      expect(coder.model.forward(ids, causalPlan(4)).dtype).toBe("bfloat16");
    });
  });

  it("takes vocabulary and special tokens from the tokenizer, and takes it along", async () => {
    const dir = fileURLToPath(new URL("../../assets/tokenizer", import.meta.url));
    using coder = StableDiffCoder.fromConfig("tiny", { tokenizer: dir });
    const { tokenizer, config } = coder;
    expect(config.vocabSize % 64).toBe(0);
    expect(config.vocabSize - tokenizer.vocabSize).toBeLessThan(64);
    expect([config.bosTokenId, config.eosTokenId, config.padTokenId, config.maskTokenId]).toEqual([
      tokenizer.bosId,
      tokenizer.eosId,
      tokenizer.padId,
      tokenizer.maskId,
    ]);
    await coder.savePretrained(folder);
    using loaded = await StableDiffCoder.fromPretrained(folder);
    const text = "export function add(a: number, b: number) {\n  return a + b;\n}\n";
    expect(loaded.tokenizer.hash).toBe(tokenizer.hash);
    expect(loaded.tokenizer.encode(text)).toEqual(tokenizer.encode(text));
    expect(() => StableDiffCoder.fromConfig({ ...shape, vocabSize: 64 }, { tokenizer })).toThrow(/vocabSize is 64/);
  });

  it("the tiny preset fits the tokenizer that comes with the library", () => {
    const dir = fileURLToPath(new URL("../../assets/tokenizer", import.meta.url));
    using coder = StableDiffCoder.fromConfig("tiny", { tokenizer: dir });
    const { initializerRange: _, ...preset } = presetConfig("tiny");
    expect(coder.config).toMatchObject(preset);
  });

  it("takes the mask token from the tokenizer when config.json names none", async () => {
    const dir = fileURLToPath(new URL("../../assets/tokenizer", import.meta.url));
    using coder = StableDiffCoder.fromConfig("tiny", { tokenizer: dir });
    await coder.savePretrained(folder);
    edit(join(folder, "config.json"), { mask_token_id: null });
    using loaded = await StableDiffCoder.fromPretrained(folder);
    expect(loaded.config.maskTokenId).toBe(coder.tokenizer.maskId);
  });

  it("saves a bare decoder too", async () => {
    using model = new Decoder(presetConfig("tiny", shape));
    await saveCheckpoint(model, folder);
    expect(readdirSync(folder).sort()).toEqual(["config.json", "generation_config.json", "model.safetensors"]);
  });
});

/** All weights of a checkpoint by name. */
function openAll(path: string) {
  const files = readdirSync(path)
    .filter((name) => /^model.*\.safetensors$/.test(name))
    .map((name) => torch.openSafetensors(join(path, name)));
  const where = new Map(files.flatMap((file) => file.keys().map((name) => [name, file] as const)));
  return {
    names: [...where.keys()],
    get: (name: string) => (where.get(name) as (typeof files)[number]).get(name),
    [Symbol.dispose]: () => {
      for (const file of files) file.dispose();
    },
  };
}
