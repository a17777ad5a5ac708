import { readdirSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { StableDiffCoder, weightName } from "../../lib/checkpoint/index.js";
import { blockDiffusionPlan } from "../../lib/diffusion/index.js";
import { causalPlan, Decoder, presetConfig } from "../../lib/model/index.js";
import { functional } from "../../lib/nn/index.js";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";
import { fixture, golden } from "../nn/golden.js";
import { cachedPlan, KeyValueCache } from "../reference/kv-cache.js";
import { Draw, device, record, relativeError } from "./support.js";

const CHECKPOINTS = ["llama", "llama-tied", "llama3-rope", "linear-rope", "qwen2", "qwen3", "mistral", "llama-sharded"];
const onDevice = (tensors: Record<string, Tensor>) =>
  Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, tensor.to(device)]));

describe("logits of checkpoints that transformers wrote", () => {
  it.each(CHECKPOINTS)("%s agrees to 1e-4 in float32, and roughly in bfloat16", async (name) => {
    using exact = await StableDiffCoder.fromPretrained(fixture(name), { device });
    using rounded = await StableDiffCoder.fromPretrained(fixture(name), { device, dtype: "bfloat16" });
    torch.scope(() => {
      const { tensors } = golden(`${name}/golden.safetensors`);
      const { ids } = onDevice(tensors);
      const logits = ({ model }: StableDiffCoder) =>
        torch.noGrad(() => model.logits(model.forward(ids, causalPlan(ids.size(1), { device }))));
      const [error, coarse] = [exact, rounded].map((coder) => relativeError(logits(coder), tensors.logits));
      record(
        `logits of ${name}: error in float32, in bfloat16`,
        `${error.toExponential(1)}, ${coarse.toExponential(1)}`,
      );
      expect(error).toBeLessThan(1e-4);
      expect(coarse).toBeLessThan(0.1);
    });
  });
});

describe("block diffusion against a dense 2L x 2L mask in float64", () => {
  const cases = readdirSync(fixture("block-diffusion"))
    .filter((name) => /^b\d.*\.safetensors$/.test(name))
    .map((name) => name.replace(".safetensors", ""));

  it.each(cases)("%s: loss and every gradient to 1e-4", async (name) => {
    using coder = await StableDiffCoder.fromPretrained(fixture("block-diffusion"), { device });
    const { model } = coder;
    torch.scope(() => {
      const { tensors: expected, metadata } = golden(`block-diffusion/${name}.safetensors`);
      const { noisy, tokens, rows, targets, weights } = onDevice(expected);
      const documents = metadata.documents ? (JSON.parse(metadata.documents) as number[]) : undefined;
      const plan = blockDiffusionPlan(tokens.size(1), Number(metadata.block_size), { documents, rows, device });
      const hidden = model.forward(torch.cat([noisy, tokens], 1), plan);
      const options = { rowWeights: weights, chunkSize: 8 };
      const { loss, nll } = functional.linearCrossEntropy(hidden, model.headWeight, targets, options);
      loss.backward();
      expect(relativeError(nll, expected.nll)).toBeLessThan(1e-4);
      expect(Math.abs(loss.item() / expected.loss.item() - 1)).toBeLessThan(1e-5);
      for (const [parameter, tensor] of model.namedParameters()) {
        const error = relativeError(tensor.grad as Tensor, expected[`grad.${weightName(parameter)}`], 1);
        expect(error, parameter).toBeLessThan(1e-4);
      }
    });
  });
});

describe("Decoder", () => {
  const config = presetConfig("tiny", { vocabSize: 512, initializerRange: 0.1 });

  it("has the same weights on every device for the same seed, also after a move", () => {
    const seeded = (on: string) => new Decoder(config, { device: on, generator: new torch.Generator({ seed: 3 }) });
    using there = seeded("cpu");
    using here = seeded(device);
    using moved = seeded("cpu").to({ device });
    for (const [i, weight] of there.parameters().entries()) {
      expect(here.parameters()[i].cpu().equal(weight)).toBe(true);
      expect(moved.parameters()[i].cpu().equal(weight)).toBe(true);
      expect(moved.parameters()[i].device).toBe(here.parameters()[i].device);
    }
  });

  it("gives the hidden states of the CPU, whole, in parts, and through a cache", () => {
    const make = (on: string) => new Decoder(config, { device: on, generator: new torch.Generator({ seed: 4 }) });
    using there = make("cpu");
    using here = make(device);
    using cache = KeyValueCache.for(here, { batch: 2, maxLength: 45 });
    torch.scope(() =>
      torch.noGrad(() => {
        const ids = new Draw(5).integers(0, 512, [2, 45]);
        const documents = [0, 20, 45, 52, 90];
        const rows = torch.tensor([3, 44, 45, 89], { dtype: "int64" });
        const expected = there.forward(ids, causalPlan(45));
        expect(relativeError(here.forward(ids.to(device), causalPlan(45, { device })), expected)).toBeLessThan(1e-4);
        const packed = causalPlan(45, { documents, rows: rows.to(device), device });
        const packedThere = there.forward(ids, causalPlan(45, { documents, rows }));
        expect(relativeError(here.forward(ids.to(device), packed), packedThere)).toBeLessThan(1e-4);
        const parts = [16, 28, 1].map((length) => {
          const part = ids.to(device).narrow(1, cache.length, length);
          const hidden = here.forward(part, cachedPlan(cache, { length, visibility: "causal" }));
          cache.advance(length);
          return hidden;
        });
        expect(relativeError(torch.cat(parts, 1), expected)).toBeLessThan(1e-4);
      }),
    );
  });
});
