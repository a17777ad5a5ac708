// Without scopes the garbage collector frees tensors, once the event loop turns. Prints what it measured as JSON.
import { setImmediate as turn } from "node:timers/promises";
import * as torch from "../../../lib/torch/index.js";

const made = 20_000;
const kept = torch.ones([2]);
const start = torch.memory().tensors;
for (let i = 0; i < made; i++) kept.add(i);
const synchronous = torch.memory().tensors - start;

const deadline = Date.now() + 30_000;
let left = synchronous;
while (left > made / 20 && Date.now() < deadline) {
  // Work that makes garbage, as any program's does.
  Array.from({ length: 100_000 }, (_, i) => ({ i }));
  await turn();
  left = torch.memory().tensors - start;
}
console.log(JSON.stringify({ synchronous, left, kept: kept.tolist() }));
