// One rank as a process of its own, over Gloo: rank, size and the store's file are arguments, jobs come as JSON.
import { FileStore, ProcessGroup } from "../../../lib/distributed/index.js";
import * as torch from "../../../lib/torch/index.js";
import { jobs } from "./jobs.js";

const [rank, size, file, list] = process.argv.slice(2);
torch.setNumThreads(1);
const group = await ProcessGroup.create(new FileStore(file, Number(size)), Number(rank), Number(size), { timeout: 60 });
const results: unknown[] = [];
for (const [name, data] of JSON.parse(list) as [keyof typeof jobs, never][])
  results.push(await jobs[name](group, data));
console.log(JSON.stringify(results));
await group.destroy();
