import type { AttentionPlan } from "../../model/attention-plan.js";
import type { Tensor } from "../../torch/index.js";
import * as torch from "../../torch/index.js";
import { type IntegerLists, mostPages, type Pass, type PassTensors, pageTable, type Rounding } from "./pass.js";

/** Keys and values of all layers, as {@link PagedKVCache} keeps them. */
export interface Pages {
  readonly keys: readonly Tensor[];
  readonly values: readonly Tensor[];
  readonly pageSize: number;
}

/** The inputs of attention for one pass. */
export interface AttentionInputs {
  lists: IntegerLists;
  /**
   * Numbers for the host. Together with the lengths of the lists they are the shape of the pass, which alone determines the
   * operators that run.
   */
  sizes: Readonly<Record<string, number>>;
}

/** An implementation of attention of the tokens of a pass to their sequences' pages. */
export interface PagedAttention {
  describe(pass: Pass, pageSize: number, rounding: Rounding): AttentionInputs;
  /** @param tensors of the lists that {@link describe} gave, and `slots` */
  attend(pages: Pages, tensors: PassTensors, sizes: AttentionInputs["sizes"]): AttentionPlan["attend"];
}

/** Writes new keys and values to pages of [pages, pageSize, hkv, d]. */
export function store({ keys, values }: Pages, layer: number, slots: Tensor, k: Tensor, v: Tensor): void {
  const shape = [-1, k.size(2), k.size(3)];
  keys[layer].view(shape).indexCopy_(0, slots, k.view(shape));
  values[layer].view(shape).indexCopy_(0, slots, v.view(shape));
}

/** On the CPU one operator writes the new keys and values and reads the pages where they are. It takes no padding. */
export const nativeAttention: PagedAttention = {
  describe({ starts, pages, visible }) {
    const table = pageTable(pages, mostPages(pages));
    return { lists: { table, starts, visible }, sizes: { sequences: pages.length } };
  },

  attend({ keys, values, pageSize }, { int32, int64 }, { sequences }) {
    const slots = int64("slots");
    const table = int32("table").view([sequences, -1]);
    const [starts, visible] = [int32("starts"), int32("visible")];
    const { paged_attention: attend } = torch.ops.diffcoder;
    return (layer, q, k, v) =>
      attend(q, k, v, keys[layer], values[layer], slots, table, starts, visible, pageSize, null) as Tensor;
  },
};

/**
 * By plain operators, on any device and in any dtype: pages are gathered, sequences padded to the longest, and a mask hides
 * the rest. For float32 and float64 on CUDA, and to test the others.
 */
export const paddedAttention: PagedAttention = {
  describe({ starts, pages, visible }, _, { coarse }) {
    const counts = pages.map((__, s) => starts[s + 1] - starts[s]);
    const sequences = coarse(pages.length);
    const widest = coarse(Math.max(...counts));
    const pagesEach = coarse(mostPages(pages));
    const queryAt = new Int32Array(sequences * widest);
    const seen = new Int32Array(sequences * widest).fill(1);
    const backAt = new Int32Array(visible.length);
    for (const [s, count] of counts.entries()) {
      for (let i = 0; i < count; i++) {
        queryAt[s * widest + i] = starts[s] + i;
        seen[s * widest + i] = visible[starts[s] + i];
        backAt[starts[s] + i] = s * widest + i;
      }
    }
    const lists = { table: pageTable(pages, pagesEach, sequences), queryAt, seen, backAt };
    return { lists, sizes: { sequences, widest, pagesEach } };
  },

  attend(pages, { int64 }, { sequences, widest, pagesEach }) {
    const keys = pagesEach * pages.pageSize;
    const [slots, table, queryAt, seen, backAt] = ["slots", "table", "queryAt", "seen", "backAt"].map(int64);
    const mask = torch
      .arange(keys, { dtype: "int64", device: seen.device })
      .lt(seen.view([sequences, 1, widest, 1]))
      .view([sequences, 1, widest, keys]);
    const gather = (memory: Tensor, heads: number, width: number) =>
      memory.indexSelect(0, table).view([sequences, keys, heads, width]).transpose(1, 2);
    return (layer, q, k, v) => {
      const [, asked, heads, width] = q.shape;
      const keyHeads = k.size(2);
      store(pages, layer, slots, k, v);
      // A pass that only stores keys computes one row in the last layer, which is not read.
      if (asked < k.size(1)) return q;
      const rows = q
        .view([-1, heads, width])
        .indexSelect(0, queryAt)
        .view([sequences, widest, heads, width])
        .transpose(1, 2);
      const [heldKeys, heldValues] = [pages.keys, pages.values].map((all) => gather(all[layer], keyHeads, width));
      const out = torch.scaledDotProductAttention(rows, heldKeys, heldValues, mask, 0, false, { enableGqa: true });
      return out.transpose(1, 2).reshape([-1, heads, width]).indexSelect(0, backAt).view([1, -1, heads, width]);
    };
  },
};
