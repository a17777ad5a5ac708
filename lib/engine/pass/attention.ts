import type { AttentionPlan } from "../../model/attention-plan.js";
import type { Tensor } from "../../torch/index.js";
import type { IntegerLists, PassTensors } from "./inputs.js";
import type { Pass, Rounding } from "./pass.js";

/** Keys and values of all layers, as {@link PagedKVCache} keeps them. */
export interface Pages {
  readonly keys: readonly Tensor[];
  readonly values: readonly Tensor[];
  readonly pageSize: number;
}

/** What one pass asks of attention. */
export interface AttentionInputs {
  lists: IntegerLists;
  /**
   * Numbers for the host. With the lengths of the lists they are the shape of the pass: what runs depends on them, and on
   * nothing else.
   */
  sizes: Readonly<Record<string, number>>;
}

/** A way to let the tokens of a pass attend to their sequences' pages. */
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
