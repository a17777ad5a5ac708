import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import type { DecoderConfig, RopeConfig } from "./config.js";
import { ModelError } from "./errors.js";

/**
 * Cosines and sines of the rotary angles for every position up to `maxPositionEmbeddings`, computed once. The
 * arithmetic is in float32 and in the same order as in transformers, so that the angles of long contexts are exactly
 * those of training.
 */
export class RotaryTables {
  /** float32 [positions, headDim / 2] */
  readonly #cos: Tensor;
  readonly #sin: Tensor;
  readonly #positions: number;

  constructor(config: Pick<DecoderConfig, "rope" | "headDim" | "maxPositionEmbeddings">, device: string) {
    this.#positions = config.maxPositionEmbeddings;
    const tables = torch.scope(() =>
      torch.noGrad(() => {
        const frequencies = inverseFrequencies(config.rope, config.headDim);
        const angles = torch.arange(this.#positions, { dtype: "float32" }).unsqueeze(1).mul(frequencies);
        return { cos: angles.cos().to(device), sin: angles.sin().to(device) };
      }),
    );
    this.#cos = torch.keep(tables.cos);
    this.#sin = torch.keep(tables.sin);
  }

  /**
   * The rows for int64 positions [s] or [b, s]: float32 [s, headDim / 2] or [b, s, headDim / 2].
   *
   * @param end one more than the largest position, if it is known on the host; checked before the look-up on the device
   * @throws ModelError MODEL_INPUT if `end` is beyond the tables
   */
  at(positions: Tensor, end?: number): { cos: Tensor; sin: Tensor } {
    if (end !== undefined && end > this.#positions) {
      throw new ModelError("MODEL_INPUT", `position ${end - 1} is beyond maxPositionEmbeddings (${this.#positions})`);
    }
    return { cos: torch.embedding(this.#cos, positions), sin: torch.embedding(this.#sin, positions) };
  }

  dispose(): void {
    this.#cos.dispose();
    this.#sin.dispose();
  }
}

/** Angles per position, float32 [headDim / 2]: theta^(-2i/d), scaled according to `rope`. */
export function inverseFrequencies(rope: RopeConfig, headDim: number): Tensor {
  const exponents = torch.arange(0, headDim, 2, { dtype: "float32" }).div(headDim);
  const plain = torch.pow(rope.theta, exponents).reciprocal();
  if (rope.type === "default") return plain;
  if (rope.type === "linear") return plain.div(rope.factor);
  return llama3Frequencies(plain, rope);
}

/**
 * Llama 3.1's scaling: long wavelengths are scaled by `factor`, short ones are kept, and those in between are
 * interpolated.
 */
function llama3Frequencies(plain: Tensor, rope: Extract<RopeConfig, { type: "llama3" }>): Tensor {
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings: context } = rope;
  const wavelengths = plain.reciprocal().mul(2 * Math.PI);
  const isLong = wavelengths.gt(context / lowFreqFactor);
  const isShort = wavelengths.lt(context / highFreqFactor);
  const smooth = wavelengths
    .reciprocal()
    .mul(context)
    .sub(lowFreqFactor)
    .div(highFreqFactor - lowFreqFactor);
  const between = smooth.neg().add(1).mul(plain).div(factor).add(smooth.mul(plain));
  return torch.where(isLong, plain.div(factor), torch.where(isShort, plain, between));
}
