import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  countParameters,
  type DecoderConfigInput,
  decoderConfig,
  ModelConfigError,
  ModelError,
  PRESET_NAMES,
  type PresetName,
  parseConfigJson,
  presetConfig,
  toConfigJson,
} from "../../lib/model/index.js";
import { fixture } from "../nn/golden.js";

const FIXTURES = ["llama", "llama-tied", "llama3-rope", "linear-rope", "qwen2", "qwen3", "mistral", "llama-sharded"];
const read = (path: string): Record<string, unknown> => JSON.parse(readFileSync(fixture(path), "utf8"));
const llama = () => read("llama/config.json");

const smallest: DecoderConfigInput = { vocabSize: 16, hiddenSize: 8, intermediateSize: 12, numLayers: 1, numHeads: 2 };

describe("config.json", () => {
  it.each(FIXTURES)("reads %s the same in the form of transformers 5 and of 4", (name) => {
    const modern = parseConfigJson(read(`${name}/config.json`));
    expect(parseConfigJson(read(`${name}/config.legacy.json`))).toEqual(modern);
    expect(modern.numKeyValueHeads).toBe(2);
  });

  it.each(FIXTURES)("writes %s so that it reads the same", (name) => {
    const config = parseConfigJson(read(`${name}/config.json`));
    expect(parseConfigJson(toConfigJson(config))).toEqual(config);
  });

  it("reads Llama 3's rotary scaling, Qwen2's biases and a head size of its own", () => {
    expect(parseConfigJson(read("llama3-rope/config.json")).rope).toEqual({
      type: "llama3",
      theta: 10_000,
      factor: 4,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalMaxPositionEmbeddings: 16,
    });
    expect(parseConfigJson(read("linear-rope/config.json"))).toMatchObject({
      attentionBias: "qkvo",
      rope: { type: "linear", factor: 2 },
    });
    expect(parseConfigJson(read("qwen2/config.json")).attentionBias).toBe("qkv");
    expect(parseConfigJson(read("llama-tied/config.json"))).toMatchObject({ headDim: 12, tieWordEmbeddings: true });
  });

  it("reads the published Stable-DiffCoder, old name and new, and keeps what it has no use for", () => {
    const published = {
      architectures: ["StableDiffcoderForCausalLM"],
      auto_map: { AutoModelForCausalLM: "modeling_stable_diffcoder.StableDiffcoderForCausalLM" },
      attention_dropout: 0.1,
      resid_pdrop: 0.1,
      bos_token_id: 0,
      eos_token_id: 2,
      pad_token_id: 1,
      head_dim: 128,
      hidden_act: "silu",
      hidden_size: 4096,
      initializer_range: 0.009882118,
      intermediate_size: 14336,
      max_position_embeddings: 8192,
      mlp_bias: false,
      attention_bias: false,
      model_type: "llama",
      num_attention_heads: 32,
      num_hidden_layers: 32,
      num_key_value_heads: 8,
      rms_norm_eps: 1e-6,
      rope_scaling: null,
      rope_theta: 500000,
      tie_word_embeddings: false,
      torch_dtype: "bfloat16",
      vocab_size: 155136,
    };
    const config = parseConfigJson(published);
    expect(config).toMatchObject({ maskTokenId: 5, dtype: "bfloat16", other: { resid_pdrop: 0.1 } });
    expect(toConfigJson(config)).toMatchObject({ ...published, mask_token_id: 5 });
    const old = parseConfigJson({ ...published, architectures: ["SeedDiffcoderForCausalLM"] });
    expect(old.maskTokenId).toBe(5);
    const { dtype, other, architecture, ...shape } = config;
    const { dtype: _d, other: _o, architecture: _a, ...preset } = presetConfig("seed-coder-8b");
    expect([dtype, architecture, Object.keys(other).length]).toEqual(["bfloat16", "StableDiffcoderForCausalLM", 4]);
    expect(shape).toEqual(preset);
  });

  it("takes null for absent, and the architecture from model_type", () => {
    const { architectures: _, ...json } = llama();
    const config = parseConfigJson({ ...json, num_key_value_heads: null, head_dim: null, pad_token_id: null });
    expect(config).toMatchObject({
      architecture: "LlamaForCausalLM",
      numKeyValueHeads: 4,
      headDim: 8,
      padTokenId: null,
    });
  });

  it.each<[string, Record<string, unknown>, RegExp]>([
    ["architecture", { architectures: ["GemmaForCausalLM"] }, /architectures is "GemmaForCausalLM", allowed: 'Llama/],
    ["activation", { hidden_act: "gelu" }, /hidden_act is "gelu", allowed: 'silu'/],
    ["mlp bias", { mlp_bias: true }, /mlp_bias is true, allowed: false/],
    ["sliding window", { use_sliding_window: true }, /use_sliding_window is true, allowed: false/],
    ["window of a Llama", { sliding_window: 4096 }, /sliding_window is 4096, allowed: null/],
    ["layer types", { layer_types: ["sliding_attention"] }, /layer_types is .*, allowed: only 'full_attention'/],
    [
      "yarn",
      { rope_parameters: { rope_type: "yarn", factor: 4 } },
      /rope_parameters.rope_type is "yarn", allowed: 'default', 'linear', 'llama3'/,
    ],
    ["legacy yarn", { rope_parameters: null, rope_scaling: { type: "yarn" } }, /rope_scaling.rope_type is "yarn"/],
    ["partial rotary", { partial_rotary_factor: 0.5 }, /partial_rotary_factor is 0.5, allowed: 1/],
    ["missing factor", { rope_parameters: { rope_type: "linear" } }, /rope_parameters.factor: /],
    ["quantisation", { quantization_config: { bits: 4 } }, /quantization_config/],
    ["wrong type", { hidden_size: "32" }, /hidden_size: .*number/],
    ["negative size", { vocab_size: -1 }, /vocab_size: /],
    ["missing size", { intermediate_size: undefined }, /intermediate_size: /],
    ["heads", { num_key_value_heads: 3 }, /num_key_value_heads: 3 does not divide the 4 attention heads/],
    ["odd head", { head_dim: 7 }, /head_dim: 7 is odd/],
    ["token id", { mask_token_id: 64 }, /mask_token_id: 64 is outside the vocabulary of 64/],
    ["dtype", { dtype: "float8" }, /dtype is "float8", allowed: float32/],
    ["bias", { attention_bias: "yes" }, /attention_bias is "yes", allowed: true, false/],
  ])("refuses a wrong %s, saying where and what is allowed", (_, change, message) => {
    const run = () => parseConfigJson({ ...llama(), ...change }, "somewhere/config.json");
    expect(run).toThrow(ModelConfigError);
    expect(run).toThrow(message);
    expect(run).toThrow(/somewhere\/config.json cannot be used/);
  });

  it("lists all problems at once", () => {
    const run = () => parseConfigJson({ ...llama(), mlp_bias: true, hidden_act: "relu", vocab_size: 0 });
    expect(run).toThrow(/hidden_act[\s\S]*mlp_bias[\s\S]*vocab_size/);
  });

  it("never fails with anything but a ModelConfigError, whatever the JSON", () => {
    const keys = fc.constantFrom(...Object.keys(llama()), "rope_scaling", "rope_theta", "torch_dtype");
    fc.assert(
      fc.property(fc.dictionary(keys, fc.jsonValue()), (change) => {
        try {
          parseConfigJson({ ...llama(), ...change });
        } catch (error) {
          expect(error).toBeInstanceOf(ModelConfigError);
        }
      }),
      { numRuns: 300 },
    );
    for (const json of [null, 1, "x", []]) expect(() => parseConfigJson(json)).toThrow(ModelConfigError);
  });
});

describe("decoderConfig", () => {
  it("fills in defaults", () => {
    expect(decoderConfig(smallest)).toMatchObject({
      architecture: "LlamaForCausalLM",
      numKeyValueHeads: 2,
      headDim: 4,
      attentionBias: "none",
      maskTokenId: null,
      rope: { type: "default", theta: 10_000 },
    });
    expect(decoderConfig({ ...smallest, architecture: "Qwen2ForCausalLM" }).attentionBias).toBe("qkv");
  });

  it.each<[string, object, RegExp]>([
    ["unknown key", { hiddensize: 8 }, /hiddensize/],
    ["unknown architecture", { architecture: "GPT2" }, /LlamaForCausalLM/],
    ["head", { numHeads: 3 }, /3 does not divide the hidden size 8/],
    ["bias", { attentionBias: "qkv" }, /LlamaForCausalLM has only 'none' or 'qkvo'/],
    ["rope", { rope: { type: "yarn" } }, /rope/],
  ])("refuses a wrong %s", (_, change, message) => {
    const run = () => decoderConfig({ ...smallest, ...change } as DecoderConfigInput);
    expect(run).toThrow(ModelConfigError);
    expect(run).toThrow(message);
  });
});

describe("presets", () => {
  it.each<[PresetName, number]>([
    ["tiny", 5_638_400],
    ["125m", 128_994_048],
    ["350m", 360_760_320],
    ["1b", 1_040_254_976],
    ["seed-coder-8b", 8_250_462_208],
  ])("%s has %d parameters", (name, count) => {
    expect(countParameters(presetConfig(name))).toBe(count);
  });

  it("seed-coder-8b is 32 layers of 218.1M and two tables of 155136 x 4096", () => {
    const layer = 4096 * 4096 * 2 + 4096 * 1024 * 2 + 3 * 4096 * 14_336 + 2 * 4096;
    expect(Math.round(layer / 1e5)).toBe(2181);
    expect(countParameters(presetConfig("seed-coder-8b"))).toBe(32 * layer + 2 * 155_136 * 4096 + 4096);
  });

  it("take overrides and refuse unknown names", () => {
    expect(presetConfig("tiny", { vocabSize: 512, numLayers: 2 })).toMatchObject({ vocabSize: 512, numLayers: 2 });
    expect(() => presetConfig("huge" as PresetName)).toThrow(ModelError);
    expect(() => presetConfig("huge" as PresetName)).toThrow(new RegExp(PRESET_NAMES.join(", ")));
  });
});
