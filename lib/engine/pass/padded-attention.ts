import type { Tensor } from "../../torch/index.js";
import * as torch from "../../torch/index.js";
import { type PagedAttention, store } from "./attention.js";
import { mostPages, pageTable } from "./pass.js";

/**
 * By plain operators, on any device and in any dtype: pages are gathered, sequences padded to the longest, and a mask says
 * what is seen. For float32 and float64 on CUDA, and to compare others with.
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
      // A pass for keys alone asks for one row in the last layer, whose value nobody reads.
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
