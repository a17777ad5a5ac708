import type { AttentionPlan } from "../model/attention-plan.js";
import type { Decoder } from "../model/decoder.js";
import { cachedPlan, KeyValueCache } from "../model/kv-cache.js";
import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { uploadIntegers } from "./batch.js";

/** What of a sequence a forward pass is asked for. */
export interface ForwardRequest {
  /** All tokens; only those before `end` are read. */
  sequence: Int32Array;
  /** Tokens before this are final, and so are their keys and values. A multiple of the block size. */
  finished: number;
  end: number;
  /** Positions whose logits are wanted, ascending, from finished - 1 on. */
  rows: readonly number[];
}

/** Logits of a growing sequence under block-causal attention, batch 1. */
export interface SequenceForward extends Disposable {
  /** Calls of the model so far. */
  readonly forwards: number;
  /** [rows.length, vocabSize]; the caller disposes of it. */
  logits(request: ForwardRequest): Tensor;
}

/** The plain reference: every pass runs over the whole sequence. */
export class UncachedForward implements SequenceForward {
  readonly #model: Decoder;
  readonly #blockSize: number;
  forwards = 0;

  constructor(model: Decoder, blockSize: number) {
    this.#model = model;
    this.#blockSize = blockSize;
  }

  logits({ sequence, end, rows }: ForwardRequest): Tensor {
    this.forwards++;
    return run(this.#model, sequence, 0, end, rows, (wanted) => blockCausalPlan(end, this.#blockSize, wanted));
  }

  [Symbol.dispose](): void {}
}

export interface CachedForwardOptions {
  /** 1: causal. */
  blockSize: number;
  /** Longest sequence. */
  maxLength: number;
  /** Whether finished tokens are stored by the pass that first follows them, or by one of their own. */
  fusedStore: boolean;
  /** Tokens before `finished` whose hidden states are asked for again and again: 1 with the shift. */
  overlap: number;
  /** Finished tokens that one pass takes in at most. */
  prefillChunk: number;
}

/**
 * The exact block cache: keys and values of finished blocks never change, so
 * a pass runs over the block at hand and over finished tokens that are not stored yet. With `fusedStore` those ride
 * along; otherwise they get a pass of their own, as in the published sampler.
 */
export class CachedForward implements SequenceForward {
  readonly #model: Decoder;
  readonly #cache: KeyValueCache;
  readonly #options: CachedForwardOptions;
  readonly #chunk: number;
  forwards = 0;

  constructor(model: Decoder, options: CachedForwardOptions) {
    this.#model = model;
    this.#options = options;
    this.#cache = KeyValueCache.for(model, { maxLength: options.maxLength });
    this.#chunk = Math.max(1, Math.floor(options.prefillChunk / options.blockSize)) * options.blockSize;
  }

  logits({ sequence, finished, end, rows }: ForwardRequest): Tensor {
    const cache = this.#cache;
    const { overlap, fusedStore } = this.#options;
    const keep = Math.max(0, finished - overlap);
    // Chunks end where blocks end: a block in two of them would not see its own second half.
    for (let to = this.#nextChunk(); to < finished; to = this.#nextChunk()) this.#store(sequence, to);
    if (!fusedStore && cache.length < keep && finished < end) {
      this.#store(sequence, finished);
      cache.crop(keep);
    }
    const from = cache.length;
    const logits = this.#run(sequence, from, end, rows);
    cache.advance(keep - from);
    return logits;
  }

  #nextChunk(): number {
    const { blockSize } = this.#options;
    return Math.floor(this.#cache.length / blockSize) * blockSize + this.#chunk;
  }

  /** Runs finished tokens up to `to` for their keys and values alone. */
  #store(sequence: Int32Array, to: number): void {
    const from = this.#cache.length;
    this.#run(sequence, from, to, []).dispose();
    this.#cache.advance(to - from);
  }

  #run(sequence: Int32Array, from: number, to: number, rows: readonly number[]): Tensor {
    this.forwards++;
    const { blockSize } = this.#options;
    return run(this.#model, sequence, from, to, rows, (wanted) =>
      cachedPlan(this.#cache, {
        length: to - from,
        visibility: blockSize === 1 ? "causal" : { blockSize },
        lastLayer: rows.length > 0 ? { rows: wanted } : { queries: 1 },
      }),
    );
  }

  [Symbol.dispose](): void {
    this.#cache.dispose();
  }
}

function run(
  model: Decoder,
  sequence: Int32Array,
  from: number,
  to: number,
  rows: readonly number[],
  plan: (rows: Tensor) => AttentionPlan,
): Tensor {
  return torch.scope(() =>
    torch.noGrad(() => {
      const wanted = Int32Array.from(rows, (position) => position - from);
      const [ids, rowIds] = uploadIntegers([sequence.subarray(from, to), wanted], model.device);
      const hidden = model.forward(ids.view([1, to - from]), plan(rowIds));
      return rows.length > 0 ? model.logits(hidden) : hidden;
    }),
  );
}

/** Attention of a whole sequence where a position sees its own block and all before, with an explicit mask. */
function blockCausalPlan(length: number, blockSize: number, rows: Tensor): AttentionPlan {
  const positions = torch.arange(length, { dtype: "int64", device: rows.device });
  const blocks = positions.div(blockSize, { roundingMode: "floor" });
  const visible = blocks.unsqueeze(1).ge(blocks.unsqueeze(0));
  return {
    positions,
    end: length,
    attend: (_layer, q, k, v) => {
      const [heads, first, second] = [q, k, v].map((x) => x.transpose(1, 2));
      const options = { enableGqa: true };
      return torch.scaledDotProductAttention(heads, first, second, visible, 0, false, options).transpose(1, 2);
    },
    lastLayer: { rows },
  };
}
