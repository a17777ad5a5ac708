import { blockDiffusionPlan } from "../../../lib/diffusion/index.js";
import { type LocalTensor, wholeTensor } from "../../../lib/distributed/index.js";
import { causalPlan, Decoder, type DecoderConfigInput, decoderConfig } from "../../../lib/model/index.js";
import { checkpoint, wrapForward } from "../../../lib/nn/index.js";
import * as torch from "../../../lib/torch/index.js";

/** What the tensor-parallel children share: a decoder, its losses, and what its gradients are in one process. */

export const LENGTH = 12;
export const MASK = 5;

export function decoder(
  overrides: Partial<DecoderConfigInput> = {},
  dtype: "float32" | "float64" = "float32",
): Decoder {
  const config = decoderConfig({
    vocabSize: 48,
    hiddenSize: 32,
    intermediateSize: 44,
    numLayers: 2,
    numHeads: 4,
    numKeyValueHeads: 2,
    headDim: 8,
    maxPositionEmbeddings: 64,
    initializerRange: 0.15,
    bosTokenId: 0,
    padTokenId: 1,
    eosTokenId: 2,
    maskTokenId: MASK,
    ...overrides,
  });
  using generator = new torch.Generator({ seed: 11 });
  const model = new Decoder(config, { generator });
  // Biases and norms that are all alike would hide a mistake in their order.
  for (const [name, tensor] of model.namedParameters()) {
    if (tensor.ndim === 1) {
      torch.noGrad(() =>
        tensor.add_(torch.randn(tensor.shape, { generator }), { alpha: name.endsWith("bias") ? 0.3 : 0.1 }),
      );
    }
  }
  // Drawn in float32, so that they are the same in both.
  return model.to({ dtype });
}

export function sequence(index: number, vocabSize: number): Int32Array {
  const random = new torch.Philox(7, index);
  return Int32Array.from({ length: LENGTH }, () => 6 + random.below(vocabSize - 6));
}

export type Loss = (model: Decoder, indices: readonly number[]) => torch.Tensor;

/** Next-token prediction of whole sequences. */
export const autoregressive: Loss = (model, indices) => {
  const tokens = torch.tensor(indices.map((i) => [...sequence(i, model.config.vocabSize)])).long();
  const hidden = model.forward(tokens, causalPlan(LENGTH)).narrow(1, 0, LENGTH - 1);
  const targets = tokens.narrow(1, 1, LENGTH - 1).flatten();
  return model.crossEntropy(hidden.flatten(0, 1), targets, { chunkSize: 7 }).loss;
};

/** Block diffusion: two tokens of three masked, weighted by their place in the sequence. */
export const blockDiffusion: Loss = (model, indices) => {
  const clean = torch.tensor(indices.map((i) => [...sequence(i, model.config.vocabSize)])).long();
  const masked = torch.arange(LENGTH).remainder(3).ne(1).expand(clean.shape);
  const rows = masked.flatten().nonzero().squeeze(1);
  const ids = torch.cat([clean.maskedFill(masked, MASK), clean], 1);
  const hidden = model.forward(ids, blockDiffusionPlan(LENGTH, 4, { rows }));
  const rowWeights = rows.remainder(LENGTH).to({ dtype: "float32" }).add(0.5);
  return model.crossEntropy(hidden, clean.flatten().indexSelect(0, rows), { rowWeights, chunkSize: 7 }).loss;
};

export function checkpointLayers(model: Decoder): void {
  for (const layer of model.layers) wrapForward(layer, (forward) => checkpoint(forward));
}

export interface Expected {
  loss: number;
  gradients: Map<string, torch.Tensor>;
}

/** Loss and gradients in one process. Gradients are copies that outlive the model. */
export function alone(model: Decoder, loss: Loss, indices: readonly number[], autocast = false): Expected {
  const value = torch.scope(() => {
    const total = withAutocast(autocast, () => loss(model, indices));
    total.backward();
    return total.item();
  });
  const gradients = Array.from(
    model.namedParameters(),
    ([name, tensor]) => [name, torch.keep((tensor.grad as torch.Tensor).clone())] as const,
  );
  return { loss: value, gradients: new Map(gradients) };
}

export function withAutocast<T>(enabled: boolean, run: () => T): T {
  return enabled ? torch.autocast({ device: "cpu", dtype: "bfloat16" }, run) : run();
}

export interface GradientError {
  /** |difference| / |gradient| over all this rank's parts together. */
  whole: number;
  /** The same of the parameter where it is worst. */
  worst: number;
}

/** How far this rank's gradients are from their parts of the expected ones. */
export function gradientError(parts: readonly LocalTensor[], expected: Expected): GradientError {
  const norms = parts.map(({ name, tensor, slice }) =>
    torch.scope(() => {
      let own = expected.gradients.get(name) as torch.Tensor;
      if (own.shape.join() !== slice.shape.join()) throw new Error(`${name}: [${slice.shape}] of [${own.shape}]`);
      for (const [d, offset] of slice.offset.entries()) own = own.narrow(d, offset, slice.size[d]);
      return { difference: (tensor.grad as torch.Tensor).sub(own).norm().item(), gradient: own.norm().item() };
    }),
  );
  const total = (of: (norm: (typeof norms)[number]) => number) => Math.hypot(...norms.map(of));
  const full = norms.filter(({ gradient }) => gradient > 0); // a shard may be empty
  return {
    whole: total(({ difference }) => difference) / total(({ gradient }) => gradient),
    worst: Math.max(...full.map(({ difference, gradient }) => difference / gradient)),
  };
}

/** A model's parameters as parts that are the whole. */
export function wholeParts(model: Decoder): LocalTensor[] {
  return Array.from(model.namedParameters(), ([name, tensor]) => wholeTensor(name, tensor));
}

export function disposeOf(expected: Expected): void {
  for (const gradient of expected.gradients.values()) gradient.dispose();
}
