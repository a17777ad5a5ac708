import { refuseRenamed } from "../base/renamed-options.js";
import type { Batch } from "../model/objective.js";
import { Philox } from "../torch/philox.js"; // not from the index, so that corruption does not load native code
import { checkBatch, documentStarts, documentsOfRow } from "./batch.js";
import { DiffusionError } from "./errors.js";
import { clipRate, type NoiseSchedule } from "./noise.js";

/** Unit with one noise level t: each block (section 3.3's "block-specific mask rate"), each document or each row. */
export type Granularity = "block" | "document" | "sequence";

/**
 * How the noise levels are drawn. Each is uniform in every mode; the modes differ in their joint distribution:
 * - `independent`: as in the paper;
 * - `antithetic`: in pairs t and 1 - t;
 * - `low-discrepancy`: evenly spread from a random start (Kronecker sequence of the golden ratio), so that the levels
 *   of one row cover (0, 1). The loss has less variance and the same expectation.
 */
export type TimeSampling = "independent" | "antithetic" | "low-discrepancy";

export interface CorruptionOptions {
  /** B; blocks are counted from the start of each document, or of each row if the batch has no boundaries. */
  blockSize: number;
  noise: NoiseSchedule;
  maskId: number;
  /** The seed of the run and the index of the stage. Together with a row's index they determine its corruption. */
  seed: number;
  stage: number;
  /** Cap of t (Eq. 10). Default 1. */
  uMax?: number;
  /** Overrides of the schedule's rules, used by the warmup. */
  clip?: boolean;
  fallback?: boolean;
  /** false: every weight is 1. Default true. */
  weighted?: boolean;
  /** Default "block". */
  granularity?: Granularity;
  /** Default "independent". */
  timeSampling?: TimeSampling;
  /** true: a document's first token is never masked (the shifted objective cannot predict it). Default false. */
  keepFirst?: boolean;
}

/** A corrupted batch. Rows of the loss are in ascending order of `positions`. */
export interface Corruption {
  /** x_t, row-major [batch, length]. */
  noisy: Int32Array;
  /** Flat indices into batch * length of the masked tokens, [m]. */
  positions: Int32Array;
  /** x_0 at `positions`, [m]. */
  targets: Int32Array;
  /** w(t) at `positions`, [m]. */
  weights: Float32Array;
  /** m. */
  numMasked: number;
  /** Number of tokens that may be masked: all but prompts and, with `keepFirst`, first tokens. */
  numMaskable: number;
  /** Number of blocks with at least one such token. */
  numBlocks: number;
  /** Number of those blocks that stayed clean and do not contribute to the loss. */
  emptyBlocks: number;
  /** Number of blocks in which the fallback masked one token. */
  fallbackBlocks: number;
  /** Mean mask rate over the maskable tokens. */
  meanRate: number;
  /** Sum of the weights over maskable tokens; 1 in expectation for an unbiased bound. */
  weightedMass: number;
}

const GOLDEN_RATIO = 0.6180339887498949;
/**
 * Random streams of a row. Each token and each t has its own draw, so that no draw depends on the outcome of another.
 */
const STREAM_TOKENS = 0x6d61736b; // "mask"
const STREAM_TIMES = 0x74696d65; // "time"
const TWO_32 = 2 ** 32;

/**
 * The forward process q(x_t | x_0) over a whole batch (Eq. 4 and section 3.3), on the host: each token that may be
 * masked is replaced by `maskId` independently with its block's rate.
 *
 * A row's result depends only on (seed, stage, its index) and its contents, not on the other rows, their order, the
 * process or earlier draws.
 *
 * @throws DiffusionError DIFFUSION_BATCH, DIFFUSION_OPTIONS
 */
export function corrupt(batch: Batch, options: CorruptionOptions): Corruption {
  checkBatch(batch);
  const settings = resolve(options);
  const { blockSize, granularity, seed, stage } = settings;
  const maskable = maskableTokens(batch, settings);
  const writer = new CorruptionWriter(batch, maskable, settings);
  for (let row = 0; row < batch.batch; row++) {
    const base = row * batch.seqLen;
    const nextTime = timesOfRow(settings, batch.indices[row]);
    const draws = new Philox(seed, STREAM_TOKENS, stage, batch.indices[row]).fillUint32(new Uint32Array(batch.seqLen));
    const documents = documentsOfRow(batch, row);
    let t = granularity === "sequence" ? nextTime() : 0;
    for (let d = 0; d + 1 < documents.length; d++) {
      if (granularity === "document") t = nextTime();
      for (let start = documents[d]; start < documents[d + 1]; start += blockSize) {
        if (granularity === "block") t = nextTime();
        const end = Math.min(start + blockSize, documents[d + 1]);
        writer.corruptBlock(base + start, base + end, t, draws.subarray(start, end));
      }
    }
  }
  return writer.finish();
}

type Settings = Required<CorruptionOptions>;

function resolve(options: CorruptionOptions): Settings {
  refuseRenamed(options, ["timeSampling"], (text) => new DiffusionError("DIFFUSION_OPTIONS", text));
  const { blockSize, noise, uMax = 1 } = options;
  if (!Number.isInteger(blockSize) || blockSize < 1) {
    throw new DiffusionError("DIFFUSION_OPTIONS", `blockSize must be a positive integer, got ${blockSize}`);
  }
  if (!(uMax > 0 && uMax <= 1)) throw new DiffusionError("DIFFUSION_OPTIONS", `uMax must be in (0, 1], got ${uMax}`);
  return {
    ...options,
    uMax,
    clip: options.clip ?? noise.clip,
    fallback: options.fallback ?? noise.fallback,
    weighted: options.weighted ?? true,
    granularity: options.granularity ?? "block",
    timeSampling: options.timeSampling ?? "independent",
    keepFirst: options.keepFirst ?? false,
  };
}

/** Flags [batch * length] with 1 for tokens that may be masked; undefined if all may. */
function maskableTokens(batch: Batch, settings: Settings): Uint8Array | undefined {
  const { lossMask } = batch;
  if (!settings.keepFirst) return lossMask;
  const starts = documentStarts(batch);
  return starts.map((isStart, i) => (isStart || lossMask?.[i] === 0 ? 0 : 1));
}

/** Masks one block after another and counts the results. */
class CorruptionWriter {
  readonly #tokens: Int32Array;
  readonly #maskable: Uint8Array | undefined;
  readonly #settings: Settings;
  readonly #noisy: Int32Array;
  readonly #positions: Int32Array;
  readonly #weights: Float32Array;
  #numMasked = 0;
  #numMaskable = 0;
  #numBlocks = 0;
  #emptyBlocks = 0;
  #fallbackBlocks = 0;
  #rateSum = 0;
  #weightSum = 0;

  constructor(batch: Batch, maskable: Uint8Array | undefined, settings: Settings) {
    this.#tokens = batch.tokens;
    this.#maskable = maskable;
    this.#settings = settings;
    this.#noisy = batch.tokens.slice();
    this.#positions = new Int32Array(batch.tokens.length);
    this.#weights = new Float32Array(batch.tokens.length);
  }

  /** Corrupts the block at flat positions start .. end - 1 at time t. `draws` holds one 32-bit number per token. */
  corruptBlock(start: number, end: number, t: number, draws: Uint32Array): void {
    const { noise, clip, fallback, weighted } = this.#settings;
    const size = this.#countMaskable(start, end);
    const u = Math.min(1, Math.max(0, noise.u(t)));
    const rate = clip && size > 0 ? clipRate(u, size) : u;
    const weight = weighted ? noise.weight(t, rate) : 1;
    const before = this.#numMasked;
    let closest = -1;
    let smallest = TWO_32;
    for (let i = start; i < end; i++) {
      if (this.#maskable && !this.#maskable[i]) continue;
      const draw = draws[i - start];
      if (draw < rate * TWO_32) this.#mask(i, weight);
      else if (draw < smallest) {
        smallest = draw;
        closest = i;
      }
    }
    if (size === 0) return;
    this.#numBlocks++;
    this.#numMaskable += size;
    this.#rateSum += size * rate;
    if (this.#numMasked > before) return;
    if (fallback && closest >= 0) {
      // If no draw is below the rate, the draws are exchangeable, so the position of the smallest one is uniform.
      this.#mask(closest, weight);
      this.#fallbackBlocks++;
    } else this.#emptyBlocks++;
  }

  #countMaskable(start: number, end: number): number {
    if (!this.#maskable) return end - start;
    let count = 0;
    for (let i = start; i < end; i++) if (this.#maskable[i]) count++;
    return count;
  }

  #mask(position: number, weight: number): void {
    this.#noisy[position] = this.#settings.maskId;
    this.#positions[this.#numMasked] = position;
    this.#weights[this.#numMasked++] = weight;
    this.#weightSum += weight;
  }

  finish(): Corruption {
    const positions = this.#positions.slice(0, this.#numMasked);
    return {
      noisy: this.#noisy,
      positions,
      targets: positions.map((i) => this.#tokens[i]),
      weights: this.#weights.slice(0, this.#numMasked),
      numMasked: this.#numMasked,
      numMaskable: this.#numMaskable,
      numBlocks: this.#numBlocks,
      emptyBlocks: this.#emptyBlocks,
      fallbackBlocks: this.#fallbackBlocks,
      meanRate: this.#rateSum / Math.max(1, this.#numMaskable),
      weightedMass: this.#weightSum / Math.max(1, this.#numMaskable),
    };
  }
}

/** Draws t ~ U(0, uMax) (Eq. 10) for one block, document or row after another. */
function timesOfRow(settings: Settings, index: number): () => number {
  const { seed, stage, uMax, timeSampling, granularity } = settings;
  // The joint distribution covers the levels of one row, or of all rows of the stage if each row has one level.
  const perRow = granularity === "sequence";
  const own = (stream: number) => new Philox(seed, STREAM_TIMES, stage, stream);
  if (timeSampling === "low-discrepancy") {
    const origin = perRow ? new Philox(seed, STREAM_TIMES, stage).uniform() : own(index).uniform();
    let n = perRow ? index : 0;
    return () => uMax * (1 - ((origin + n++ * GOLDEN_RATIO) % 1));
  }
  if (timeSampling === "antithetic") {
    if (perRow) {
      const t = own(Math.floor(index / 2)).uniform();
      return () => uMax * (index % 2 ? 1 - t : t);
    }
    const random = own(index);
    let mirrored: number | undefined;
    return () => {
      const t = mirrored ?? random.uniform();
      mirrored = mirrored === undefined ? 1 - t : undefined;
      return uMax * t;
    };
  }
  const random = own(index);
  return () => uMax * (1 - random.uniform()); // (0, 1]: at t = 0 no token is masked and the weight is undefined
}
