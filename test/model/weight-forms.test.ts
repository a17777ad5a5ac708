import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeEach, describe, expect, it } from "vitest";
import { CodedError } from "../../lib/base/coded-error.js";
import { exportCheckpoint, loadWeights, readConfig, StableDiffCoder } from "../../lib/checkpoint/index.js";
import * as torch from "../../lib/torch/index.js";
import { fixture } from "../nn/golden.js";

const root = mkdtempSync(join(tmpdir(), "diffcoder-forms-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

let folder = "";
let count = 0;
beforeEach(() => {
  folder = join(root, String(count++));
  cpSync(fixture("llama-tied"), folder, { recursive: true });
});

const EMBEDDING = "model.embed_tokens.weight";
const HEAD = "lm_head.weight";
const config = (change: Record<string, unknown>) => {
  const path = join(folder, "config.json");
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), ...change }));
};
type Weights = Record<string, torch.Tensor>;
const rewrite = (change: (weights: Weights) => Weights) =>
  torch.scope(() => {
    const path = join(folder, "model.safetensors");
    using file = torch.openSafetensors(path);
    const weights = Object.fromEntries(file.keys().map((key) => [key, file.get(key).clone()]));
    torch.saveSafetensors(path, change(weights), { format: "pt" });
  });
const without = ({ [EMBEDDING]: _, ...rest }: Weights) => rest;
const load = () => StableDiffCoder.fromPretrained(folder);
const failure = async () => {
  const error = await load().catch((error: unknown) => error);
  expect(error).toBeInstanceOf(CodedError);
  return `${(error as CodedError<string>).code} ${(error as Error).message}`;
};
const same = (a: torch.Tensor, b: torch.Tensor) => torch.equal(a, b);

// As transformers 5.24 does: PreTrainedModel.tie_weights.
describe("an embedding and a head that config.json ties", () => {
  it.each([
    ["the embedding alone", (weights: Weights) => weights],
    ["the head alone", (weights: Weights) => ({ ...without(weights), [HEAD]: weights[EMBEDDING] })],
    ["both, equal", (weights: Weights) => ({ ...weights, [HEAD]: weights[EMBEDDING].clone() })],
  ])("are one: %s", async (_, change) => {
    using before = await load();
    rewrite(change);
    using coder = await load();
    expect(coder.config.tieWordEmbeddings).toBe(true);
    expect(same(coder.model.embedTokens.weight, before.model.embedTokens.weight)).toBe(true);
    expect(same(coder.model.headWeight, before.model.embedTokens.weight)).toBe(true);
    await exportCheckpoint(folder, join(folder, "out"));
    using exported = await StableDiffCoder.fromPretrained(join(folder, "out"));
    expect(same(exported.model.headWeight, before.model.embedTokens.weight)).toBe(true);
  });

  it("are two where the files have two, and stay so when saved and exported", async () => {
    rewrite((weights) => ({ ...weights, [HEAD]: weights[EMBEDDING].mul(2) }));
    using coder = await load();
    expect(coder.config.tieWordEmbeddings).toBe(false);
    expect(same(coder.model.headWeight, coder.model.embedTokens.weight.mul(2))).toBe(true);
    await exportCheckpoint(folder, join(folder, "exported"));
    await coder.savePretrained(join(folder, "saved"));
    for (const name of ["exported", "saved"]) {
      using again = await StableDiffCoder.fromPretrained(join(folder, name));
      expect(readConfig(join(folder, name)).tieWordEmbeddings).toBe(false);
      expect(same(again.model.headWeight, coder.model.headWeight)).toBe(true);
    }
  });

  it("never lose a head without a word: a model that ties them does not take it", async () => {
    using coder = await load();
    rewrite((weights) => ({ ...weights, [HEAD]: weights[EMBEDDING].mul(2) }));
    await expect(loadWeights(coder.model, folder)).rejects.toThrow(
      /lm_head\.weight differs from .*tieWordEmbeddings: false/,
    );
  });

  it("that it does not tie must both be there", async () => {
    config({ tie_word_embeddings: false });
    expect(await failure()).toMatch(/^CHECKPOINT_MISMATCH .*lm_head\.weight is missing/s);
    rewrite((weights) => ({ ...without(weights), [HEAD]: weights[EMBEDDING] }));
    expect(await failure()).toMatch(/^CHECKPOINT_MISMATCH .*embed_tokens\.weight is missing/s);
  });
});

describe("config.json", () => {
  it("may name ids outside the vocabulary, which are none", async () => {
    config({ pad_token_id: -1, bos_token_id: -1, eos_token_id: [2, 100_000, -1], mask_token_id: -1 });
    rmSync(join(folder, "generation_config.json"), { force: true });
    const { padTokenId, bosTokenId, eosTokenId, maskTokenId } = readConfig(folder);
    expect({ padTokenId, bosTokenId, eosTokenId, maskTokenId }).toEqual({
      padTokenId: null,
      bosTokenId: null,
      eosTokenId: [2],
      maskTokenId: null,
    });
  });

  it("may hold NaN and Infinity, as Python writes them, and keeps them", async () => {
    const path = join(folder, "config.json");
    const text = readFileSync(path, "utf8").trimEnd().replace(/\}$/, "");
    writeFileSync(path, `${text}, "a": NaN, "b": [-Infinity], "c": "NaN", "d": {"__float__": "Infinity"}}`);
    const extras = { a: Number.NaN, b: [Number.NEGATIVE_INFINITY], c: "NaN", d: Number.POSITIVE_INFINITY };
    expect(readConfig(folder).other).toMatchObject(extras);
    using coder = await load();
    await coder.savePretrained(join(folder, "out"));
    expect(JSON.parse(readFileSync(join(folder, "out", "config.json"), "utf8"))).toMatchObject({
      a: { __float__: "NaN" }, // as transformers writes them
      b: [{ __float__: "-Infinity" }],
      c: "NaN",
      d: { __float__: "Infinity" },
    });
    expect(readConfig(join(folder, "out")).other).toMatchObject(extras);
  });

  it("is refused, the key named, where NaN is a number that counts", async () => {
    const path = join(folder, "config.json");
    const text = readFileSync(path, "utf8").replace(/"rms_norm_eps": [^,]+/, '"rms_norm_eps": NaN');
    writeFileSync(path, text);
    expect(await failure()).toMatch(/^MODEL_CONFIG .*rms_norm_eps.*NaN/s);
  });
});
