import type { DTypeLike, Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import type { AttentionPlan } from "./attention-plan.js";
import type { DecoderConfig } from "./config.js";
import type { Decoder } from "./decoder.js";
import { ModelError } from "./errors.js";

/** Size and place of a {@link KeyValueCache}. */
export interface KeyValueCacheOptions {
  /** Rows that decode together; default 1. */
  batch?: number;
  /** Tokens per row that fit. */
  maxLength: number;
  /** Default "float32". */
  dtype?: DTypeLike;
  /** Default "cpu". */
  device?: string;
}

interface Memory {
  keys: Tensor;
  values: Tensor;
}

/**
 * Keys and values of the tokens that are final, in memory allocated with the first of them: per layer
 * [batch, maxLength, hkv, d], where hkv are the heads that this process computes.
 *
 * A forward pass with a {@link cachedPlan} writes the keys and values of its tokens behind the `length` tokens kept so
 * far. They are scratch until {@link advance} keeps them, so a denoising pass that is thrown away needs no clean-up.
 */
export class KeyValueCache {
  readonly maxLength: number;
  readonly batch: number;
  readonly device: string;
  readonly #dtype: DTypeLike;
  readonly #layers: (Memory | undefined)[];
  #length = 0;

  constructor(
    config: DecoderConfig,
    { batch = 1, maxLength, dtype = "float32", device = "cpu" }: KeyValueCacheOptions,
  ) {
    this.batch = batch;
    this.maxLength = maxLength;
    this.device = device;
    this.#dtype = dtype;
    this.#layers = new Array<Memory | undefined>(config.numLayers).fill(undefined);
  }

  /** A cache that fits a model: its dtype, its device. */
  static for(model: Decoder, { batch, maxLength }: { batch?: number; maxLength: number }): KeyValueCache {
    const { dtype, device } = model.embedTokens.weight;
    return new KeyValueCache(model.config, { batch, maxLength, dtype, device });
  }

  /** Tokens kept. */
  get length(): number {
    return this.#length;
  }

  /** Keeps the first `count` of the tokens that the last forward pass wrote. */
  advance(count: number): void {
    this.#setLength(this.#length + count);
  }

  /** Forgets all but the first `length` tokens. */
  crop(length: number): void {
    if (length > this.#length) {
      throw new ModelError("MODEL_INPUT", `cannot crop to ${length} tokens, the cache holds ${this.#length}`);
    }
    this.#setLength(length);
  }

  #setLength(length: number): void {
    if (!Number.isInteger(length) || length < 0) {
      throw new ModelError("MODEL_INPUT", `a cache length must be a whole number from 0, got ${length}`);
    }
    this.reserve(length - this.#length);
    this.#length = length;
  }

  /** @throws ModelError CACHE_FULL when `count` more tokens do not fit */
  reserve(count: number): void {
    if (this.#length + count > this.maxLength) {
      throw new ModelError(
        "CACHE_FULL",
        `${count} more tokens do not fit: the cache holds ${this.#length} of ${this.maxLength}`,
      );
    }
  }

  /**
   * Writes new keys and values [batch, n, hkv, d] behind the tokens kept.
   *
   * @returns views of all keys and values up to the new ones: [batch, length + n, hkv, d]
   */
  write(layer: number, k: Tensor, v: Tensor): { keys: Tensor; values: Tensor } {
    const [batch, count] = k.shape;
    if (batch !== this.batch) {
      throw new ModelError("CACHE_SHAPE", `keys of ${batch} rows for a cache of ${this.batch}`);
    }
    this.reserve(count);
    const { keys, values } = this.#memoryOf(layer, k);
    torch.noGrad(() => {
      keys.narrow(1, this.#length, count).copy_(k);
      values.narrow(1, this.#length, count).copy_(v);
    });
    const total = this.#length + count;
    return { keys: keys.narrow(1, 0, total), values: values.narrow(1, 0, total) };
  }

  #memoryOf(layer: number, { shape: [, , heads, width] }: Tensor): Memory {
    if (!(layer >= 0 && layer < this.#layers.length)) {
      throw new ModelError("CACHE_SHAPE", `layer ${layer} of a cache of ${this.#layers.length} layers`);
    }
    const known = this.#layers[layer];
    if (known) return known;
    const shape = [this.batch, this.maxLength, heads, width];
    const allocate = () => torch.keep(torch.empty(shape, { dtype: this.#dtype, device: this.device }));
    const memory = { keys: allocate(), values: allocate() };
    this.#layers[layer] = memory;
    return memory;
  }

  dispose(): void {
    for (const memory of this.#layers) {
      memory?.keys.dispose();
      memory?.values.dispose();
    }
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * What new tokens see of each other; all of them see every token in the cache.
 * - "full": everything, as the positions of one diffusion block do
 * - "causal": the ones before, as in AR decoding
 * - { blockSize }: their own block and the blocks before, blocks counted from position 0
 */
export type Visibility = "full" | "causal" | { blockSize: number };

/** Options of {@link cachedPlan}. */
export interface CachedPlanOptions {
  /** New tokens per row in this forward pass. */
  length: number;
  visibility: Visibility;
  lastLayer?: AttentionPlan["lastLayer"];
}

/**
 * Attention of `length` new tokens to a cache and to each other. The pass writes the new keys and values behind the
 * cached ones; call `cache.advance(n)` afterwards to keep the first n of them. Two blocks may ride together: the
 * finished one, to be kept, and the next one, still masked, with `visibility: { blockSize }`.
 *
 * For inference: gradients do not reach cached keys and values.
 *
 * @throws ModelError CACHE_FULL when the tokens do not fit
 */
export function cachedPlan(cache: KeyValueCache, { length, visibility, lastLayer }: CachedPlanOptions): AttentionPlan {
  cache.reserve(length);
  const start = cache.length;
  const { device } = cache;
  const flash = visibility === "causal" && start === 0;
  const mask = flash ? null : visibilityMask(start, length, visibility, device);
  return {
    positions: torch.arange(start, start + length, { dtype: "int64", device }),
    end: start + length,
    attend(layer, q, k, v) {
      const { keys, values } = cache.write(layer, k, v);
      // The flash operator wants as many queries as keys, which the last layer may not have.
      if (flash && q.size(1) === length) return torch.ops.diffcoder.causal_attention(q, k, v, null, null) as Tensor;
      const masked = mask ?? (flash ? visibilityMask(start, length, visibility, device) : null);
      return groupedAttention(q, keys, values, masked);
    },
    ...(lastLayer && { lastLayer }),
  };
}

/** bool [length, start + length], true where a new token sees a key; null when all see all. */
function visibilityMask(start: number, length: number, visibility: Visibility, device: string): Tensor | null {
  if (visibility === "full" || length === 1) return null;
  const blockSize = visibility === "causal" ? 1 : visibility.blockSize;
  if (!Number.isInteger(blockSize) || blockSize < 1) {
    throw new ModelError("MODEL_INPUT", `blockSize must be a whole number from 1, got ${blockSize}`);
  }
  const lastBlock = Math.floor((start + length - 1) / blockSize);
  if (Math.floor(start / blockSize) === lastBlock) return null;
  return torch.scope(() => {
    const keys = torch.arange(start + length, { dtype: "int64", device });
    const blocks = blockSize === 1 ? keys : keys.div(blockSize, { roundingMode: "floor" });
    return blocks.narrow(0, start, length).unsqueeze(1).ge(blocks.unsqueeze(0));
  });
}

// On Hopper and Blackwell libtorch would rather call cuDNN's attention, which makes a new plan (some 30 ms) for every number
// of keys it has not met: decoding meets one with every token. Its other kernels need none. Read at the first attention.
process.env.TORCH_CUDNN_SDPA_DEPRIORITIZED ??= "1";

/**
 * Attention of q [b, n, h, d] to keys and values [b, s, hkv, d] without repeating them: the queries of the heads that
 * share a key head become one longer list of queries. `mask` bool [m, s] with m >= n: row i is query i's.
 */
function groupedAttention(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | null): Tensor {
  const [b, n, h, d] = q.shape;
  const hkv = keys.size(2);
  const group = h / hkv;
  const [k, v] = [keys.transpose(1, 2), values.transpose(1, 2)];
  const grouped = q
    .view([b, n, hkv, group, d])
    .permute([0, 2, 3, 1, 4])
    .reshape([b, hkv, group * n, d]);
  const rows = mask && mask.size(0) > n ? mask.narrow(0, 0, n) : mask;
  const seen = rows && group > 1 ? rows.repeat([group, 1]) : rows;
  const out = torch.scaledDotProductAttention(grouped, k, v, seen ?? undefined);
  return out.view([b, hkv, group, n, d]).permute([0, 3, 1, 2, 4]).reshape([b, n, h, d]);
}

/** Options of {@link prefill}. */
export interface PrefillOptions {
  visibility: Exclude<Visibility, "full">;
  /** Tokens per forward pass, rounded down to whole blocks; default 512. Bounds the memory of masks and activations. */
  chunk?: number;
}

/**
 * Runs a prompt through the model in chunks and keeps its keys and values.
 *
 * @param ids int64 [batch, n], n >= 1
 * @returns the final hidden state of the last token: [batch, hiddenSize]
 */
export function prefill(model: Decoder, cache: KeyValueCache, ids: Tensor, options: PrefillOptions): Tensor {
  const { visibility, chunk = 512 } = options;
  const total = ids.size(1);
  if (total < 1) throw new ModelError("MODEL_INPUT", "prefill: the prompt is empty");
  cache.reserve(total);
  const blockSize = visibility === "causal" ? 1 : visibility.blockSize;
  const step = Math.max(1, Math.floor(chunk / blockSize)) * blockSize;
  for (let start = 0; ; ) {
    // Chunks end where blocks end: a block in two chunks would not see its own second half.
    const boundary = Math.floor(cache.length / blockSize) * blockSize + step - cache.length;
    const length = Math.min(boundary, total - start);
    const last = start + length === total;
    const hidden = torch.scope(() => {
      const plan = cachedPlan(cache, { length, visibility, lastLayer: last ? undefined : { queries: 1 } });
      return model
        .forward(ids.narrow(1, start, length), plan)
        .select(1, -1)
        .clone();
    });
    cache.advance(length);
    start += length;
    if (last) return hidden;
    hidden.dispose();
  }
}
