// One rank as a process of its own, over Gloo: rank, size and the store's file are arguments, jobs come as JSON.
import { DataParallel, FileStore, ProcessGroup } from "../../../lib/distributed/index.js";
import { viewOf } from "../../../lib/distributed/tensor-slice.js";
import { contextParallel } from "../../../lib/parallel/context/index.js";
import * as torch from "../../../lib/torch/index.js";
import { context, randomBatch, tinyModel } from "../../diffusion/fixture.js";
import { jobs, type ObjectiveCase, objectiveOf } from "./jobs.js";

/** Parameters sharded over the ranks that share the sequences, too: the worst difference of a rank's gradients. */
async function sharded(group: ProcessGroup, c: ObjectiveCase): Promise<number> {
  const [alone, model] = [await tinyModel("diffusion/mild", c.dtype), await tinyModel("diffusion/mild", c.dtype)];
  const batch = randomBatch([0, 1], c.length);
  const loss = (decoder: typeof model) => objectiveOf(c)(decoder, batch, context()).loss;
  torch.scope(() => loss(alone).backward());
  const parallel = new DataParallel(model, model.layers, { shard: group, replicate: null });
  contextParallel(model, group);
  for (const isLast of [false, true]) torch.scope(() => parallel.backward(loss(model), { isLast }));
  parallel.finish();
  const expected = new Map(Array.from(alone.namedParameters(), ([name, p]) => [name, p.grad as torch.Tensor]));
  return torch.scope(() => {
    const errors = parallel.local().map(({ name, tensor, slice }) => {
      const whole = expected.get(name) as torch.Tensor;
      if (tensor.numel() === 0) return 0;
      const all = { shape: whole.shape, offset: whole.shape.map(() => 0), size: whole.shape };
      const twice = viewOf(whole, all, slice).mul(2); // two micro-batches, the same one
      const difference = (tensor.grad as torch.Tensor).sub(twice).abs().amax().item();
      return difference / whole.abs().amax().item();
    });
    return Math.max(...errors);
  });
}

const [rank, size, file, list] = process.argv.slice(2);
torch.setNumThreads(1);
const group = await ProcessGroup.create(new FileStore(file, Number(size)), Number(rank), Number(size), { timeout: 60 });
const all = { ...jobs, sharded };
const results: unknown[] = [];
for (const [name, data] of JSON.parse(list) as [keyof typeof all, never][]) results.push(await all[name](group, data));
console.log(JSON.stringify(results));
await group.destroy();
