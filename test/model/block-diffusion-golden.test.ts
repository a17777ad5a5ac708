import { readdirSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { StableDiffCoder, weightName } from "../../lib/checkpoint/index.js";
import type { AttentionPlan } from "../../lib/model/index.js";
import { functional } from "../../lib/nn/index.js";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";
import { difference, fixture, golden } from "../nn/golden.js";

const cases = readdirSync(fixture("block-diffusion"))
  .filter((name) => /^b\d.*\.safetensors$/.test(name))
  .map((name) => name.replace(".safetensors", ""));

/** The plain form of the training plan: [x_t ; x_0], exact block-diffusion attention, only the wanted rows' logits. */
function plan(length: number, blockSize: number, rows: Tensor, documents: number[] | null): AttentionPlan {
  return {
    positions: torch.arange(length).repeat([2]),
    end: length,
    attend: (_, q, k, v) =>
      torch.ops.diffcoder.block_diffusion_attention(q, k, v, blockSize, documents, null) as Tensor,
    lastLayer: { queries: length, rows },
  };
}

describe("block diffusion against a dense 2L x 2L mask in float64", () => {
  let coder: StableDiffCoder;
  beforeAll(async () => {
    coder = await StableDiffCoder.fromPretrained(fixture("block-diffusion"));
  });
  afterAll(() => coder.dispose());

  it.each(cases)("%s: loss and every gradient to 1e-5", (name) => {
    torch.scope(() => {
      const { tensors, metadata } = golden(`block-diffusion/${name}.safetensors`);
      const documents = metadata.documents ? (JSON.parse(metadata.documents) as number[]) : null;
      const { model } = coder;
      model.zeroGrad();
      const ids = torch.cat([tensors.noisy, tensors.tokens], 1);
      const attention = plan(tensors.tokens.size(1), Number(metadata.block_size), tensors.rows, documents);
      const hidden = model.forward(ids, attention);
      const { loss, nll } = functional.linearCrossEntropy(hidden, model.headWeight, tensors.targets, {
        rowWeights: tensors.weights,
        chunkSize: 8,
      });
      loss.backward();
      expect(difference(nll, tensors.nll)).toBeLessThan(1e-5);
      expect(Math.abs(loss.item() / tensors.loss.item() - 1)).toBeLessThan(1e-6);
      for (const [parameter, tensor] of model.namedParameters()) {
        const expected = tensors[`grad.${weightName(parameter)}`];
        const scale = Math.max(1, expected.abs().amax().item());
        expect(difference(tensor.grad as Tensor, expected) / scale, parameter).toBeLessThan(1e-5);
      }
    });
  });
});
