// A synchronous loop without a scope that makes far more than the memory it may take. Prints the largest sizes as JSON.
import * as torch from "../../../lib/torch/index.js";

const kept = torch.ones([1 << 20]);
let largest = 0;
let tensors = 0;
for (let i = 0; i < 1500; i++) {
  kept.add(i); // 4 MiB each: 6 GB in all
  if (i % 50 === 49) {
    largest = Math.max(largest, process.memoryUsage.rss());
    tensors = Math.max(tensors, torch.memory().tensors);
  }
}
console.log(JSON.stringify({ megabytes: Math.round(largest / 2 ** 20), tensors, kept: kept.sum().item() }));
