import { paddedRows } from "../../diffusion/padded-rows.js";
import type { SequenceSplit } from "./sequence-split.js";

/** Which of the wanted hidden states lie on a rank, on the host. */
export interface RowSelection {
  /** Wanted in all. */
  total: number;
  /** Of them here. */
  count: number;
  /** Places in the list of wanted rows, [padded]: those that are here, ascending, then zeros. */
  wanted: Int32Array;
  /** Where they lie in this rank's flattened [b * queries] positions, [padded]; then zeros. */
  local: Int32Array;
  /** 1 for rows that are here, 0 for those added, [padded]. */
  weights: Float32Array;
}

/**
 * Finds the wanted rows that lie on a rank. Their number is rounded up, with rows that weigh nothing: other ranks have
 * other numbers, none at all perhaps, and all take part in the same backward pass.
 *
 * @param rows indices into the flattened [b * queries] positions of the whole sequence
 * @param halves of the input that have queries: `queries` is halves * length
 */
export function selectRows(
  rows: Int32Array,
  split: SequenceSplit,
  rank: number,
  { length, halves }: { length: number; halves: number },
): RowSelection {
  const wanted: number[] = [];
  const local: number[] = [];
  for (const [i, at] of rows.entries()) {
    const [row, place] = [Math.floor(at / (halves * length)), at % (halves * length)];
    const [half, position] = [Math.floor(place / length), place % length];
    const here = split.locate(rank, row, position);
    if (here === undefined) continue;
    wanted.push(i);
    local.push((row * halves + half) * split.length + here);
  }
  const count = wanted.length;
  const padded = rows.length === 0 ? 0 : paddedRows(count);
  const pad = (values: number[]) => Int32Array.from({ length: padded }, (_, i) => values[i] ?? 0);
  const weights = new Float32Array(padded).fill(1, 0, count);
  return { total: rows.length, count, wanted: pad(wanted), local: pad(local), weights };
}
