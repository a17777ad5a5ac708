// The paper's curriculum on several processes: one for each GPU, or any number on the CPU. The program is the same for any
// number of processes and any launcher. Without a launcher a single process trains alone.
//
//   npx diffcoder launch --nproc 2 examples/distributed-training.ts
//   npx diffcoder launch --nproc 8 --max-restarts 3 examples/distributed-training.ts --shard 8
//   srun --ntasks-per-node 8 --gpus-per-node 8 node_modules/.bin/tsx examples/distributed-training.ts --shard 8
import { parseArgs } from "node:util";
import {
  autoregressive,
  blockDiffusion,
  Curriculum,
  clippedLinear,
  decayTo,
  interruptSignal,
  prepareData,
  StableDiffCoder,
  Tokenizer,
  warmupStable,
} from "stable-diffcoder";
import { destroyProcessGroup, readLaunchEnvironment, world } from "stable-diffcoder/distributed";

const { values } = parseArgs({
  options: {
    steps: { type: "string", default: "300" }, // optimizer steps, in all stages together
    shard: { type: "string", default: "1" }, // parts into which parameters, gradients and optimizer state are split
    "output-dir": { type: "string", default: "runs/distributed" },
    data: { type: "string" }, // a folder of code; default: code that is already on the machine
  },
});
const steps = Number(values.steps);
const isMain = (readLaunchEnvironment()?.rank ?? 0) === 0;

// Every process creates the same model and the same data, and reads its own part of each batch.
const tokenizer = Tokenizer.fromPretrained("diffcoder/code-4k");
const data = await prepareData({ paths: values.data ? [values.data] : "default", seqLen: 256 }, tokenizer);
const model = StableDiffCoder.fromConfig("tiny", { tokenizer, seed: 0 });

const common = { data, globalBatchSize: 16, lr: warmupStable(2e-3, { warmup: 0.04 }) }; // 16 sequences over all processes
const diffusion = { ...common, blockSize: 4, noise: clippedLinear() };
const curriculum = new Curriculum([
  autoregressive({ ...common, name: "compress", steps: Math.ceil(0.5 * steps), checkpoint: "pre-anneal" }),
  blockDiffusion({
    ...diffusion,
    name: "cpt",
    steps: Math.ceil(0.3 * steps),
    warmup: { steps: Math.ceil(0.08 * steps) }, // Eq. 10
  }),
  blockDiffusion({ ...diffusion, name: "anneal", steps: Math.ceil(0.2 * steps), lr: decayTo(0) }),
]);

// At SIGTERM from a scheduler, or SIGINT from Ctrl-C: finish the step, save, exit with 0.
using interrupt = interruptSignal();
const events = curriculum.run({
  model,
  outputDir: values["output-dir"],
  resume: true, // continues from the newest complete checkpoint, on any number of processes
  checkpointEvery: { minutes: 10 },
  parallel: { shard: Number(values.shard), activationCheckpointing: "none" },
  signal: interrupt.signal,
});
// All processes must read the events to the end, because reading drives the training. The events are the same on all ranks.
for await (const event of events) {
  if (!isMain) continue;
  if (event.type === "start" && event.run.parallel) console.log("mesh", JSON.stringify(event.run.parallel));
  if (event.type === "step" && (event.step % 10 === 0 || event.step === event.steps)) {
    const { loss, tokens_per_second: rate = 0, communication_share: waiting = 0 } = event.metrics;
    const pace = `${rate.toFixed(0)} tokens/s, ${(100 * waiting).toFixed(0)} % of it waiting for others`;
    console.log(`${event.name} ${event.step}/${event.steps}: loss ${loss?.toFixed(3)}, ${pace}`);
  }
  if (event.type === "warning") console.warn(event.message);
  if (event.type === "checkpoint") console.log("saved", event.path);
}

await world()?.control.barrier(); // rank 0 serves the store that the others still use
await destroyProcessGroup();
