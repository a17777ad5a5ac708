import type { Batch } from "../model/objective.js";
import { Philox } from "../torch/philox.js";
import { maskableBlocks } from "./batch.js";
import { corrupt } from "./corruption.js";
import { DiffusionError } from "./errors.js";
import { linearNoise } from "./noise.js";

/** One mask of a batch, with the weight of every masked token in the likelihood bound. */
export interface MaskedPass {
  /** x_t, row-major [batch, length]. */
  noisy: Int32Array;
  /** Flat indices of the masked tokens, ascending. */
  positions: Int32Array;
  weights: Float64Array;
}

export interface RandomPasses {
  mcSamples: number;
  seed: number;
}

const GOLDEN_RATIO = 0.6180339887498949;
const STREAM_COUNTS = 0x636e7473; // "cnts"

/** Passes with t ~ U(0, 1) per block, low-discrepancy within a row, and w = 1 / t (Eq. 4, unclipped). */
export function* randomTimes(
  batch: Batch,
  blockSize: number,
  maskId: number,
  { mcSamples, seed }: RandomPasses,
): Generator<MaskedPass> {
  for (let pass = 0; pass < mcSamples; pass++) {
    const options = { blockSize, maskId, seed, stage: pass, noise: linearNoise(), keepFirst: true };
    const { noisy, positions, weights } = corrupt(batch, { ...options, timeSampling: "low-discrepancy" });
    yield { noisy, positions, weights: Float64Array.from(weights) };
  }
}

/**
 * Passes in which m of a block's n tokens are masked, m uniform on 1 .. n and spread evenly over a row's blocks, with
 * weight n / m. Since the integral of t^(m-1) (1-t)^(n-m) over t is (m-1)! (n-m)! / n!, this is Eq. 4 with the integral
 * over t in closed form: bound = sum over m of (1 / m) E[sum of the m masked tokens' cross-entropy].
 */
export function* randomCounts(
  batch: Batch,
  blockSize: number,
  maskId: number,
  { mcSamples, seed }: RandomPasses,
): Generator<MaskedPass> {
  const rows = maskableBlocks(batch, blockSize, true);
  for (let pass = 0; pass < mcSamples; pass++) {
    const writer = new PassWriter(batch, maskId);
    rows.forEach((blocks, row) => {
      const random = new Philox(seed, STREAM_COUNTS, pass, batch.indices[row]);
      const origin = random.uniform();
      blocks.forEach((block, k) => {
        const count = 1 + Math.floor(block.length * ((origin + k * GOLDEN_RATIO) % 1));
        const draws = block.map(() => random.uint32());
        const order = [...draws.keys()].sort((a, b) => draws[a] - draws[b]);
        const chosen = order.slice(0, count).map((i) => block[i]);
        writer.mask(
          chosen.sort((a, b) => a - b),
          block.length / count,
        );
      });
    });
    yield writer.finish();
  }
}

/**
 * Yields every non-empty mask of a block, one per pass and the same in all blocks. A mask of m of n tokens has the
 * weight (m-1)! (n-m)! / n! = 1 / (m C(n, m)); the sum over the passes is the exact bound.
 */
export function* allSubsets(batch: Batch, blockSize: number, maskId: number): Generator<MaskedPass> {
  if (blockSize > 12) {
    throw new DiffusionError("DIFFUSION_OPTIONS", `exact bound: block size ${blockSize} needs 2^${blockSize} passes`);
  }
  const blocks = maskableBlocks(batch, blockSize, true).flat();
  for (let subset = 1; subset < 2 ** blockSize; subset++) {
    const writer = new PassWriter(batch, maskId);
    for (const block of blocks) {
      if (subset >= 2 ** block.length) continue; // the mask includes a token beyond the end of this block
      const chosen = block.filter((_, i) => subset & (1 << i));
      writer.mask(chosen, 1 / (chosen.length * choose(block.length, chosen.length)));
    }
    yield writer.finish();
  }
}

function choose(n: number, m: number): number {
  let ways = 1;
  for (let i = 1; i <= m; i++) ways = (ways * (n - m + i)) / i;
  return ways;
}

class PassWriter {
  readonly #maskId: number;
  readonly #noisy: Int32Array;
  readonly #positions: number[] = [];
  readonly #weights: number[] = [];

  constructor(batch: Batch, maskId: number) {
    this.#maskId = maskId;
    this.#noisy = batch.tokens.slice();
  }

  mask(positions: readonly number[], weight: number): void {
    for (const at of positions) {
      this.#noisy[at] = this.#maskId;
      this.#positions.push(at);
      this.#weights.push(weight);
    }
  }

  finish(): MaskedPass {
    return {
      noisy: this.#noisy,
      positions: Int32Array.from(this.#positions),
      weights: Float64Array.from(this.#weights),
    };
  }
}
