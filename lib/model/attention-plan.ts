import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { ModelError } from "./errors.js";

/**
 * Description of a plan's attention as data, for other implementations of it, such as context parallelism. `documents`
 * is as in the plans' options.
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

/** The attention of a forward pass. The decoder calls the plan, so that it does not depend on diffusion or caches. */
export interface AttentionPlan {
  /** int64 [s] or [b, s]: rotary positions. */
  readonly positions: Tensor;
  /**
   * One more than the largest position, if it is known without reading the tensor; used to reject inputs that are too
   * long.
   */
  readonly end?: number;
  /** q [b, s, h, d], k and v [b, s, hkv, d], after rotary -> [b, s, h, d]. */
  attend(layer: number, q: Tensor, k: Tensor, v: Tensor): Tensor;
  /** The part of the last layer's output to compute. */
  readonly lastLayer?: {
    /** Only the first `queries` positions have queries; q is then [b, queries, h, d] in the last layer's attend. */
    readonly queries?: number;
    /** int64 [n]: indices into the flattened [b * queries] positions whose hidden states are computed. */
    readonly rows?: Tensor;
    /** The values of `rows`, if they are known on the host; avoids synchronizing with the device. */
    readonly rowIndices?: Int32Array;
  };
  /** Set if {@link attend} is one of the known patterns. Absent: custom attention, which cannot be replaced. */
  readonly pattern?: AttentionPattern;
}

/** Options of {@link causalPlan}. */
export interface CausalPlanOptions {
  /**
   * Documents that do not attend to each other: cumulative starts over the flattened b * length positions, from 0 to b
   * * length, including the start of each row. Positions then count from the document starts.
   */
  documents?: readonly number[];
  /** int64 [n]: the flattened positions whose hidden states are computed. */
  rows?: Tensor;
  /** The values of `rows` on the host, see {@link AttentionPlan.lastLayer}. */
  rowIndices?: Int32Array;
  /** Default "cpu". */
  device?: string;
}

/** Causal attention over rows of `length` tokens, with the flash operator `causal_attention`. */
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
 * int64 [b, length]: the distance of each position to the start of its document.
 *
 * @param documents cumulative starts over b * length positions
 * @throws ModelError MODEL_INPUT if they do not increase from 0, or a row starts inside a document
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
      throw new ModelError("MODEL_INPUT", `documents must be increasing, got ${end} after ${start}`);
    }
    if (Math.floor(start / length) !== Math.floor((end - 1) / length)) {
      throw new ModelError("MODEL_INPUT", `document ${start}..${end} crosses the end of a row of ${length}`);
    }
    for (let at = start; at < end; at++) positions[at] = BigInt(at - start);
  }
  // A copy from page-locked memory to a device is asynchronous.
  const pinMemory = device.startsWith("cuda");
  return torch.scope(() => torch.tensor(positions, { device, pinMemory }).view([total / length, length]));
}
