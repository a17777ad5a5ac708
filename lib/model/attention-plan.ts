import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { ModelError } from "./errors.js";

/**
 * What a plan's attention is, said in numbers: for those who compute it in another way, as over several processes.
 * `documents` are as in the plans' options.
 */
export type AttentionPattern =
  | { readonly kind: "causal"; readonly length: number; readonly documents?: readonly number[] }
  | {
      readonly kind: "block-diffusion";
      /** L: the input has 2L positions, noisy half first. */
      readonly length: number;
      readonly blockSize: number;
      readonly documents?: readonly number[];
    };

/** What a forward pass attends to. The decoder knows nothing of diffusion or caches: it asks the plan. */
export interface AttentionPlan {
  /** int64 [s] or [b, s]: rotary positions. */
  readonly positions: Tensor;
  /** One more than the largest position, when known without reading the tensor: too long inputs are then refused. */
  readonly end?: number;
  /** q [b, s, h, d], k and v [b, s, hkv, d], after rotary -> [b, s, h, d]. */
  attend(layer: number, q: Tensor, k: Tensor, v: Tensor): Tensor;
  /** What of the last layer's output is wanted; the rest is not computed. */
  readonly lastLayer?: {
    /** Only the first `queries` positions ask; q is then [b, queries, h, d] in the last layer's attend. */
    readonly queries?: number;
    /** int64 [n]: indices into the flattened [b * queries] positions whose hidden states are wanted. */
    readonly rows?: Tensor;
    /** The numbers in `rows`, where the host knows them: whoever needs them there then waits for no device. */
    readonly rowIndices?: Int32Array;
  };
  /** Set where {@link attend} is one of the known patterns. Absent: anything at all, and no one may replace it. */
  readonly pattern?: AttentionPattern;
}

/** Options of {@link causalPlan}. */
export interface CausalPlanOptions {
  /**
   * Documents that do not see each other: cumulative starts over the flattened b * length positions, from 0 to
   * b * length, each row's start included. Positions then count from each document's start.
   */
  documents?: readonly number[];
  /** int64 [n]: the flattened positions whose hidden states are wanted. */
  rows?: Tensor;
  /** The numbers in `rows`, see {@link AttentionPlan.lastLayer}. */
  rowIndices?: Int32Array;
  /** Default "cpu". */
  device?: string;
}

/** Plain left-to-right attention over rows of `length` tokens, by the flash operator `causal_attention`. */
export function causalPlan(length: number, options: CausalPlanOptions = {}): AttentionPlan {
  const { documents, rows, rowIndices, device = "cpu" } = options;
  const starts = documents ? [...documents] : null;
  return {
    positions: starts ? documentPositions(starts, length, device) : torch.arange(length, { dtype: "int64", device }),
    end: length,
    attend: (_, q, k, v) => torch.ops.diffcoder.causal_attention(q, k, v, starts, null) as Tensor,
    ...(rows && { lastLayer: { rows, rowIndices } }),
    pattern: { kind: "causal", length, ...(documents && { documents }) },
  };
}

/**
 * int64 [b, length]: each position's distance to the start of its document.
 *
 * @param documents cumulative starts over b * length positions
 * @throws ModelError MODEL_INPUT when they do not rise from 0, or a row starts inside a document
 */
export function documentPositions(documents: readonly number[], length: number, device = "cpu"): Tensor {
  const total = documents[documents.length - 1] ?? 0;
  if (documents[0] !== 0 || total === 0 || total % length !== 0) {
    throw new ModelError("MODEL_INPUT", `documents must run from 0 to a multiple of ${length}, got [${documents}]`);
  }
  const positions = new BigInt64Array(total);
  for (let i = 1; i < documents.length; i++) {
    const [start, end] = [documents[i - 1], documents[i]];
    if (!Number.isInteger(end) || end <= start) {
      throw new ModelError("MODEL_INPUT", `documents must rise, got ${end} after ${start}`);
    }
    if (Math.floor(start / length) !== Math.floor((end - 1) / length)) {
      throw new ModelError("MODEL_INPUT", `document ${start}..${end} crosses the end of a row of ${length}`);
    }
    for (let at = start; at < end; at++) positions[at] = BigInt(at - start);
  }
  // From page-locked memory the copy to a device waits for nothing.
  const pinMemory = device.startsWith("cuda");
  return torch.scope(() => torch.tensor(positions, { device, pinMemory }).view([total / length, length]));
}
