import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { StableDiffCoder, weightName } from "../../lib/checkpoint/index.js";
import {
  ARCHITECTURES,
  architectureSpec,
  causalPlan,
  Decoder,
  type DecoderConfigInput,
  decoderConfig,
  layerMatrices,
  ModelConfigError,
  parseConfigJson,
  toConfigJson,
} from "../../lib/model/index.js";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";
import { difference, fixture, golden } from "../nn/golden.js";

const read = (path: string): Record<string, unknown> => JSON.parse(readFileSync(fixture(path), "utf8"));
const smallest: DecoderConfigInput = { vocabSize: 16, hiddenSize: 8, intermediateSize: 12, numLayers: 2, numHeads: 2 };

describe("training against transformers", () => {
  it.each(["qwen3", "mistral"])("%s: the loss and every gradient agree to 1e-5", async (name) => {
    using coder = await StableDiffCoder.fromPretrained(fixture(name));
    const { model } = coder;
    torch.scope(() => {
      const { tensors } = golden(`${name}/golden.safetensors`);
      const [b, s] = tensors.ids.shape;
      const hidden = model.forward(tensors.ids, causalPlan(s)).narrow(1, 0, s - 1);
      const targets = tensors.ids.narrow(1, 1, s - 1).flatten();
      const { loss } = model.crossEntropy(hidden.flatten(0, 1), targets);
      const mean = loss.div(b * (s - 1));
      mean.backward();
      expect(difference(mean, tensors.loss)).toBeLessThan(1e-5);
      const names = [...model.namedParameters()].map(([own]) => `gradient.${weightName(own)}`);
      expect(names.toSorted()).toEqual(Object.keys(tensors).filter((key) => key.startsWith("gradient.")));
      for (const [own, parameter] of model.namedParameters()) {
        const expected = tensors[`gradient.${weightName(own)}`];
        expect(difference(parameter.grad as Tensor, expected), own).toBeLessThan(1e-5);
      }
    });
  });
});

describe.each(ARCHITECTURES)("%s", (architecture) => {
  const config = decoderConfig({ ...smallest, architecture });
  const spec = architectureSpec(architecture);

  it("is written to config.json so that it reads the same, and by its model_type where it has no name", () => {
    const json = toConfigJson(config);
    const { other, ...shape } = parseConfigJson(json);
    const { other: _, ...expected } = config;
    expect(shape).toEqual({ ...expected, maskTokenId: spec.maskTokenId ?? null });
    expect(json.model_type).toBe(spec.modelType);
    expect(json.architectures).toEqual([architecture]);
    const { architectures: __, ...nameless } = json;
    expect(architectureSpec(parseConfigJson(nameless).architecture).modelType).toBe(spec.modelType);
  });

  it("has the modules that it cuts, and names every matrix of a layer", () => {
    using model = new Decoder(config);
    const modules = new Map(model.layers[0].namedModules());
    for (const path of Object.keys(spec.layerCuts)) expect([...modules.keys()]).toContain(path);
    const wide = [...model.namedParameters()].filter(([name, { ndim }]) => name.startsWith("layers.") && ndim === 2);
    const matrices = layerMatrices(model);
    expect(matrices.map(([path]) => `${path}.weight`).toSorted()).toEqual(wide.map(([name]) => name).toSorted());
    for (const [path] of matrices) expect(spec.layerCuts).toHaveProperty([path.replace(/^layers\.\d+\./, "")]);
  });

  it("begins with norms of 1 and biases of 0", () => {
    using model = new Decoder(config);
    for (const [name, tensor] of model.namedParameters()) {
      const start = name.endsWith("bias") ? 0 : 1;
      if (tensor.ndim === 1) expect(tensor.tolist(), name).toEqual(new Array(tensor.numel()).fill(start));
    }
  });
});

describe("Qwen3", () => {
  it("norms each head of q and k, whose size is its own", async () => {
    using coder = await StableDiffCoder.fromPretrained(fixture("qwen3"));
    expect(coder.config).toMatchObject({ headDim: 12, attentionBias: "none", hiddenSize: 32, numHeads: 4 });
    for (const { selfAttn } of coder.model.layers) {
      expect([selfAttn.qNorm?.weight.shape, selfAttn.kNorm?.weight.shape]).toEqual([[12], [12]]);
    }
    expect(toConfigJson(coder.config)).toMatchObject({ head_dim: 12, attention_bias: false, model_type: "qwen3" });
  });

  it("takes what transformers takes for what config.json lacks, and biases on all projections", () => {
    const { head_dim: _, ...json } = read("qwen3/config.json");
    expect(parseConfigJson(json).headDim).toBe(128);
    const biased = parseConfigJson({ ...json, attention_bias: true });
    expect(biased.attentionBias).toBe("qkvo");
    expect(toConfigJson(biased).attention_bias).toBe(true);
    // Published ones have a window that they do not use.
    expect(parseConfigJson({ ...json, sliding_window: 4096 }).other.sliding_window).toBe(4096);
  });

  it("refuses biases on q, k and v alone", () => {
    const run = () => decoderConfig({ ...smallest, architecture: "Qwen3ForCausalLM", attentionBias: "qkv" });
    expect(run).toThrow(/Qwen3ForCausalLM has only 'none' or 'qkvo'/);
  });

  it("computes in bfloat16 and under autocast close to float32", async () => {
    using coder = await StableDiffCoder.fromPretrained(fixture("qwen3"));
    torch.scope(() => {
      const { tensors } = golden("qwen3/golden.safetensors");
      const logits = () => coder.model.logits(coder.model.forward(tensors.ids, causalPlan(13)));
      const scale = tensors.logits.abs().amax().item();
      const cast = torch.autocast({ device: "cpu" }, logits);
      expect(difference(cast, tensors.logits) / scale).toBeLessThan(0.05);
      coder.to({ dtype: "bf16" });
      const low = logits();
      expect(low.dtype).toBe("bfloat16");
      expect(difference(low, tensors.logits) / scale).toBeLessThan(0.05);
    });
  });
});

describe("Mistral's window", () => {
  const json = () => read("mistral/config.json");

  it.each([null, 64, 65, 4096])("may be %j of a context of 64", (window) => {
    const config = parseConfigJson({ ...json(), sliding_window: window });
    expect(config).toMatchObject({ headDim: 12, attentionBias: "none" });
    // A config without the key would mean a window of 4096.
    expect(toConfigJson(config).sliding_window).toBeNull();
  });

  it("is refused where it is shorter, with what to do", () => {
    const run = (change: Record<string, unknown>) => () => parseConfigJson({ ...json(), ...change }, "m/config.json");
    expect(run({ sliding_window: 32 })).toThrow(ModelConfigError);
    expect(run({ sliding_window: 32 })).toThrow(
      "m/config.json cannot be used\n  sliding_window is 32, allowed: null, or max_position_embeddings (64) or more: " +
        "sliding-window attention is not supported. To use the model within its window, set max_position_embeddings to 32",
    );
    expect(run({ sliding_window: "all" })).toThrow(
      /sliding_window is "all", allowed: null, or max_.*is not supported$/,
    );
  });

  it("is 4096 where config.json does not say, as in transformers", () => {
    const { sliding_window: _, ...silent } = json();
    expect(parseConfigJson(silent).maxPositionEmbeddings).toBe(64);
    const long = { ...silent, max_position_embeddings: 32_768 };
    expect(() => parseConfigJson(long)).toThrow(/sliding_window is missing, which means 4096, allowed: null, or/);
  });

  it("comes without biases", () => {
    expect(() => parseConfigJson({ ...json(), attention_bias: true })).toThrow(
      /attention_bias is true, allowed: false/,
    );
  });
});
