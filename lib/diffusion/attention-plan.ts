import type { AttentionPlan } from "../model/attention-plan.js";
import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";

export interface BlockDiffusionPlanOptions {
  /**
   * Flat cumulative document starts over batch * length, for documents that must not attend to each other; blocks then
   * count from the document starts. Absent: each row is one document.
   */
  documents?: readonly number[];
  /**
   * int64 flat indices of the hidden states to compute, into [batch * length] of the noisy half, or into [batch * 2
   * length] with `cleanQueries`. Absent: all of them.
   */
  rows?: Tensor;
  /** The values of `rows` on the host, see {@link AttentionPlan.lastLayer}. */
  rowIndices?: Int32Array;
  /**
   * Whether hidden states of the clean half are computed, too. Otherwise the last layer computes only its keys and
   * values.
   */
  cleanQueries?: boolean;
  device?: string;
}

/**
 * The training mask of block diffusion over [x_t ; x_0] (section 3): noisy positions attend to their own noisy block
 * and the clean blocks before it, clean positions to the clean blocks up to their own. No 2L x 2L mask is created: the
 * operator combines causal flash attention and three B x B parts.
 *
 * @param length L; the decoder's input then has 2L positions, noisy half first, both halves with positions 0 .. L - 1
 * @param blockSize B, a run-time number
 */
export function blockDiffusionPlan(
  length: number,
  blockSize: number,
  options: BlockDiffusionPlanOptions = {},
): AttentionPlan {
  const { documents, rows, rowIndices, cleanQueries = false, device = "cpu" } = options;
  const boundaries = documents ? [...documents] : null;
  // Rotary attention is relative, so positions restart only at the second half, not at documents.
  const positions = torch.arange(length, { dtype: "int64", device });
  return {
    positions: torch.cat([positions, positions]),
    end: length,
    attend: (_layer, q, k, v) =>
      torch.ops.diffcoder.block_diffusion_attention(q, k, v, blockSize, boundaries, null) as Tensor,
    lastLayer: { ...(!cleanQueries && { queries: length }), rows, rowIndices },
    pattern: { kind: "block-diffusion", length, blockSize, ...(documents && { documents }) },
  };
}

export interface BidirectionalPlanOptions {
  /** Flat cumulative document starts over batch * length, for documents that must not attend to each other. */
  documents?: readonly number[];
  /** int64 [n]: the flattened positions of [batch * length] whose hidden states are computed. Absent: all of them. */
  rows?: Tensor;
  /** The values of `rows` on the host, see {@link AttentionPlan.lastLayer}. */
  rowIndices?: Int32Array;
  device?: string;
}

/**
 * Attention without a mask: every position attends to all positions of its row, or of its document. One position per
 * token.
 *
 * The plan has no `pattern`, so ranks of a context-parallel group compute it in full.
 *
 * @param length number of positions in a row
 */
export function bidirectionalPlan(length: number, options: BidirectionalPlanOptions = {}): AttentionPlan {
  const { documents, rows, rowIndices, device = "cpu" } = options;
  return {
    positions: torch.arange(length, { dtype: "int64", device }),
    end: length,
    attend: (_layer, q, k, v) => {
      if (!documents) return attendToAll(q, k, v);
      const [queries, keys, values] = [q, k, v].map((x) => x.flatten(0, 1).unsqueeze(0));
      const attended = documents.slice(1).map((end, d) => {
        const size = end - documents[d];
        return attendToAll(...([queries, keys, values].map((x) => x.narrow(1, documents[d], size)) as Heads));
      });
      return torch.cat(attended, 1).view(q.shape);
    },
    ...(rows && { lastLayer: { rows, rowIndices } }),
  };
}

type Heads = [q: Tensor, k: Tensor, v: Tensor];

/** q [b, s, h, d], k and v [b, s, hkv, d] -> [b, s, h, d]. libtorch chooses its flash kernels where they apply. */
function attendToAll(...heads: Heads): Tensor {
  const [q, k, v] = heads.map((x) => x.transpose(1, 2));
  return torch.scaledDotProductAttention(q, k, v, null, 0, false, { enableGqa: true }).transpose(1, 2);
}
