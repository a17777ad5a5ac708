import { setTimeout as sleep } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import * as torch from "../../lib/torch/index.js";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

/**
 * What `torch.memory()` says once the tensors that earlier code merely dropped are collected. A test that counts before and
 * after work with awaits in it starts here: else the count before includes tensors that may be collected on the way.
 */
export async function settledMemory(): Promise<ReturnType<typeof torch.memory>> {
  for (;;) {
    const { tensors } = torch.memory();
    collectGarbage();
    await sleep(1); // tensors are freed by callbacks of the collector, which run as tasks of their own
    const settled = torch.memory();
    if (settled.tensors === tensors) return settled;
  }
}
