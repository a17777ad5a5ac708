// A thread that makes a group, begins and awaits what nobody answers, and ends.
import { parentPort, workerData } from "node:worker_threads";
import { ProcessGroup, TCPStore } from "../../../lib/distributed/index.js";
import * as torch from "../../../lib/torch/index.js";
import type { ThreadOrder } from "./thread.js";

const { rank, port, serves } = workerData as ThreadOrder;
const isServer = serves && rank === 0;
const store = await TCPStore.connect({ host: "127.0.0.1", port, isServer, timeout: 20 });
const group = await ProcessGroup.create(store, rank, 2, { name: "threads", timeout: 300 });
const sum = torch.tensor([rank + 1]);
await group.allReduce(sum);
parentPort?.postMessage(sum.item());
if (rank === 0) {
  const blocked = group.allReduce(torch.ones([1 << 16]));
  for (const forEver of [group.allReduce(torch.ones([1 << 16])), store.get("never", 300)]) {
    forEver.then(
      () => {},
      () => {},
    );
  }
  parentPort?.postMessage(blocked.isCompleted);
} else {
  await new Promise((done) => setTimeout(done, 1500));
}
process.exit(3);
