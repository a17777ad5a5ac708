import type { AttentionPlan, Decoder, DecoderConfig } from "../../lib/model/index.js";
import type { DTypeLike, Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";

// A contiguous KV cache, the plain counterpart of lib/engine/paged-kv-cache.ts.

interface CacheOptions {
  /** Rows that decode together. */
  batch?: number;
  /** Tokens per row that fit. */
  maxLength: number;
  dtype?: DTypeLike;
  device?: string;
}

interface LayerMemory {
  keys: Tensor;
  values: Tensor;
}

/**
 * Keys and values of the tokens that are final, per layer [batch, maxLength, hkv, d].
 *
 * A forward pass with a {@link cachedPlan} writes the keys and values of its tokens behind the `length` tokens kept so far.
 * They are scratch until {@link advance} keeps them, so a denoising pass needs no clean-up.
 */
export class KeyValueCache {
  readonly device: string;
  readonly #layers: LayerMemory[];
  #length = 0;

  constructor(
    { numLayers, numKeyValueHeads, headDim }: DecoderConfig,
    { batch = 1, maxLength, dtype = "float32", device = "cpu" }: CacheOptions,
  ) {
    this.device = device;
    const allocate = () => torch.keep(torch.empty([batch, maxLength, numKeyValueHeads, headDim], { dtype, device }));
    this.#layers = Array.from({ length: numLayers }, () => ({ keys: allocate(), values: allocate() }));
  }

  /** A cache with the dtype and on the device of a model. */
  static for(model: Decoder, size: { batch?: number; maxLength: number }): KeyValueCache {
    const { dtype, device } = model.embedTokens.weight;
    return new KeyValueCache(model.config, { ...size, dtype, device });
  }

  /** Tokens kept. */
  get length(): number {
    return this.#length;
  }

  /** Keeps the first `count` of the tokens that the last forward pass wrote. */
  advance(count: number): void {
    this.#length += count;
  }

  /**
   * Writes new keys and values [batch, n, hkv, d] behind the tokens kept.
   *
   * @returns views of all keys and values up to the new ones: [batch, length + n, hkv, d]
   */
  write(layer: number, k: Tensor, v: Tensor): LayerMemory {
    const { keys, values } = this.#layers[layer];
    const count = k.size(1);
    torch.noGrad(() => {
      keys.narrow(1, this.#length, count).copy_(k);
      values.narrow(1, this.#length, count).copy_(v);
    });
    const total = this.#length + count;
    return { keys: keys.narrow(1, 0, total), values: values.narrow(1, 0, total) };
  }

  [Symbol.dispose](): void {
    for (const { keys, values } of this.#layers) {
      keys.dispose();
      values.dispose();
    }
  }
}

/**
 * What new tokens see of each other; all of them see every token in the cache.
 * - "full": everything, as the positions of one diffusion block do
 * - "causal": the ones before, as in AR decoding
 * - { blockSize }: their own block and the blocks before, blocks counted from position 0
 */
export type Visibility = "full" | "causal" | { blockSize: number };

/**
 * Attention of `length` new tokens per row to a cache and to each other. The pass writes the new keys and values behind the
 * cached ones; call `cache.advance(n)` afterwards to keep the first n of them.
 */
export function cachedPlan(
  cache: KeyValueCache,
  { length, visibility, lastLayer }: { length: number; visibility: Visibility; lastLayer?: AttentionPlan["lastLayer"] },
): AttentionPlan {
  const start = cache.length;
  const { device } = cache;
  const mask = visibilityMask(start, length, visibility, device);
  return {
    positions: torch.arange(start, start + length, { dtype: "int64", device }),
    end: start + length,
    attend(layer, q, k, v) {
      const { keys, values } = cache.write(layer, k, v);
      const [queries, allKeys, allValues] = [q, keys, values].map((tensor) => tensor.transpose(1, 2));
      // Row i of the mask is query i's; the last layer may have fewer queries than there are new tokens.
      const rows = mask?.narrow(0, 0, q.size(1));
      const options = { enableGqa: true };
      return torch.scaledDotProductAttention(queries, allKeys, allValues, rows, 0, false, options).transpose(1, 2);
    },
    ...(lastLayer && { lastLayer }),
  };
}

/** bool [length, start + length], true where a new token sees a key; undefined when all see all. */
function visibilityMask(start: number, length: number, visibility: Visibility, device: string): Tensor | undefined {
  if (visibility === "full") return undefined;
  const blockSize = visibility === "causal" ? 1 : visibility.blockSize;
  return torch.scope(() => {
    const blocks = torch.arange(start + length, { dtype: "int64", device }).div(blockSize, { roundingMode: "floor" });
    return blocks.narrow(0, start, length).unsqueeze(1).ge(blocks.unsqueeze(0));
  });
}
