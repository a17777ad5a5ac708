// The addon in worker threads: each has tensors of its own, and may be stopped at any moment.
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import * as torch from "../../../lib/torch/index.js";
import { native } from "../../../lib/torch/native.js";

const square = torch.defineFunction({
  forward(context, x: torch.Tensor) {
    context.saveForBackward(x);
    return x.mul(x);
  },
  backward: (context, gradient) => (gradient as torch.Tensor).mul(context.saved[0]).mul(2),
});

function work(seed: number): number {
  return torch.scope(() => {
    using generator = new torch.Generator({ seed });
    const x = torch.randn([32, 32], { generator, requiresGrad: true });
    const loss = square(x.matmul(x)).sum();
    loss.backward();
    return (x.grad as torch.Tensor).abs().sum().item();
  });
}

if (!isMainThread) {
  const { seed, loop, served } = workerData as { seed: number; loop: boolean; served: boolean };
  native.serveBackward(served);
  if (loop) {
    // Alive when the thread is stopped: tensors, a graph with a callback, a generator, a scope that is open.
    const x = torch.ones([100], { requiresGrad: true });
    const alive = [square(x), new torch.Generator({ seed })];
    parentPort?.postMessage("started");
    torch.scope(() => {
      for (let i = 0; alive.length === 2; i++) {
        work(i);
        alive[0] = torch.keep(square(x));
      }
    });
  }
  parentPort?.postMessage({ value: work(seed), tensors: torch.memory().tensors });
} else {
  const start = (data: object) =>
    new Worker(new URL("./workers.mjs", import.meta.url), { workerData: data, execArgv: [] });
  const mine = torch.ones([3]);

  const workers = [1, 2].map((seed) => start({ seed, loop: false, served: false }));
  const ended = workers.map((worker) => once(worker, "exit"));
  const answers = await Promise.all(workers.map(async (worker) => (await once(worker, "message"))[0]));
  await Promise.all(ended);
  const expected = [1, 2].map(work);

  let stopped = 0;
  for (const served of [false, true]) {
    const loops = [3, 4, 5].map((seed) => start({ seed, loop: true, served }));
    await Promise.all(loops.map((worker) => once(worker, "message")));
    for (const worker of loops) {
      await sleep(20);
      work(6);
      await worker.terminate();
      stopped++;
    }
  }
  console.log(JSON.stringify({ answers, expected, stopped, mine: mine.tolist(), tensors: torch.memory().tensors }));
}
