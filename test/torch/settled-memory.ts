import { setTimeout as sleep } from "node:timers/promises";
import * as torch from "../../lib/torch/index.js";
import { collectGarbage } from "./collect-garbage.js";

/**
 * What `torch.memory()` says once the tensors that earlier code merely dropped are collected. A test that counts before and
 * after work with awaits in it starts here: else the count before includes tensors that may be collected on the way.
 */
export async function settledMemory(): Promise<ReturnType<typeof torch.memory>> {
  for (;;) {
    const { tensors } = torch.memory();
    collectGarbage();
    await sleep(1); // tensors are freed by callbacks
    const settled = torch.memory();
    if (settled.tensors === tensors) return settled;
  }
}
