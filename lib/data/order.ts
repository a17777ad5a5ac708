import { Philox } from "../torch/philox.js";
import { DataError } from "./errors.js";

/** Stream number of the order's random generators, so that they are independent of other uses of the seed. */
const ORDER_STREAM = 0x0d;
/** Four rounds make a Feistel network pseudo-random on large domains; small domains need more rounds. */
const ROUNDS = 8;

/** The epoch and sample of a position in the stream. */
export interface Place {
  readonly epoch: number;
  /** Index into the dataset. */
  readonly sample: number;
}

/** Options of {@link SampleOrder}. */
export interface OrderOptions {
  readonly seed?: number;
  /** Index of the stage of a curriculum; each stage has its own order. Default 0. */
  readonly stage?: number;
  /** false: every epoch has the dataset's order. Default true. */
  readonly shuffle?: boolean;
}

/**
 * The endless order in which a dataset's samples are read. Position p is in epoch floor(p / n), and each epoch is a
 * separate permutation of the n samples, determined by (seed, stage, epoch). Nothing is stored and every position is
 * computed in constant time, so any number of ranks can read the same stream, and a run can resume with a different
 * number of ranks.
 *
 * The permutation is a Feistel network with Philox as its round function on pairs (a, b), a, b < ceil(sqrt(n)), with
 * cycle walking until the result is below n (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
 */
export class SampleOrder {
  readonly numSamples: number;
  readonly shuffle: boolean;
  /** Options with defaults filled in, from which an equal order can be made. */
  readonly options: Readonly<Required<OrderOptions>>;
  readonly #seed: number;
  readonly #stage: number;
  readonly #side: number;

  /** @throws DataError DATA_RANGE for a number of samples outside [1, 2^48] */
  constructor(numSamples: number, options: OrderOptions = {}) {
    if (!Number.isSafeInteger(numSamples) || numSamples < 1 || numSamples > 2 ** 48) {
      throw new DataError("DATA_RANGE", `an order needs between 1 and 2^48 samples, got ${numSamples}`);
    }
    this.numSamples = numSamples;
    const { seed = 0, stage = 0, shuffle = true } = options;
    this.options = { seed, stage, shuffle };
    this.shuffle = shuffle;
    this.#seed = seed;
    this.#stage = stage;
    this.#side = Math.ceil(Math.sqrt(numSamples));
  }

  /** Throws DataError DATA_RANGE unless position is an integer >= 0. */
  at(position: number): Place {
    if (!Number.isSafeInteger(position) || position < 0) {
      throw new DataError("DATA_RANGE", `a position must be an integer >= 0, got ${position}`);
    }
    const epoch = Math.floor(position / this.numSamples);
    const index = position % this.numSamples;
    return { epoch, sample: this.shuffle ? this.#permute(index, epoch) : index };
  }

  #permute(index: number, epoch: number): number {
    let value = index;
    do value = this.#encipher(value, epoch);
    while (value >= this.numSamples);
    return value;
  }

  /** A bijection on [0, side * side). */
  #encipher(value: number, epoch: number): number {
    let left = Math.floor(value / this.#side);
    let right = value % this.#side;
    for (let round = 0; round < ROUNDS; round++) {
      const next = (left + this.#mix(right, round, epoch)) % this.#side;
      left = right;
      right = next;
    }
    return left * this.#side + right;
  }

  /** The round function: maps (epoch, round, half) to a number below `side`. */
  #mix(half: number, round: number, epoch: number): number {
    return new Philox(this.#seed, ORDER_STREAM, this.#stage, epoch, round, half).below(this.#side);
  }
}
