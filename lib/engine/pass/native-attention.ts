import type { Tensor } from "../../torch/index.js";
import * as torch from "../../torch/index.js";
import type { PagedAttention } from "./attention.js";
import { mostPages, pageTable } from "./pass.js";

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
