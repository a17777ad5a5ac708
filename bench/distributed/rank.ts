// One process of our side of bench/distributed.ts: whole training runs, several side by side, of which it is told in lines
// of JSON how many steps to take. Argument: a checkpoint's folder.
import { createInterface } from "node:readline";
import {
  adamw,
  blockDiffusion,
  Curriculum,
  clippedLinear,
  type Dataset,
  Philox,
  type RunOptions,
  StableDiffCoder,
  torch,
} from "stable-diffcoder";
import { communication } from "stable-diffcoder/distributed";

interface Setup {
  name: string;
  /** Sequences of a step, of all processes together. */
  batch: number;
  length: number;
  blockSize: number;
  bfloat16: boolean;
  lr: number;
  run?: Pick<RunOptions, "parallel" | "outputDir" | "checkpointEvery" | "overwrite">;
}

type Events = ReturnType<Curriculum["run"]>;
const runs = new Map<string, { events: Events; close(): void }>();
const [, , folder] = process.argv;

const commands: Record<string, (options: never) => Promise<object>> = {
  /** Lays a run out, up to its first step. */
  async setup({ name, batch, length, blockSize, bfloat16, lr, run }: Setup) {
    torch.setNumThreads(1);
    const { model } = await StableDiffCoder.fromPretrained(folder);
    const parameters = model.numParameters();
    const rootParameters = parameters - model.layers.reduce((sum, layer) => sum + layer.numParameters(), 0);
    // Random tokens: a step costs the same whatever they are.
    const data: Dataset = {
      seqLen: length,
      numSamples: 64,
      sample: (index) => {
        const random = new Philox(7, index);
        return { tokens: Int32Array.from({ length }, () => 8 + random.below(model.config.vocabSize - 8)) };
      },
    };
    const stage = blockDiffusion({
      ...{
        name: "bench",
        data,
        steps: 1_000_000,
        globalBatchSize: batch,
        blockSize,
        noise: clippedLinear(),
        lr,
        maxGradNorm: 1,
      },
      optimizer: adamw({ weightDecay: 0.1 }),
      precision: bfloat16 ? "bfloat16" : "float32",
    });
    const events = new Curriculum([stage]).run({ model, sinks: [], checkpointEvery: {}, ...run });
    runs.set(name, { events, close: () => model.dispose() });
    let event = await events.next();
    while (!event.done && event.value.type !== "stage-start") event = await events.next();
    return { parameters, rootParameters };
  },

  /** Takes steps. `busy`: of those during which a checkpoint was copied and written, how many there were and their pace. */
  async steps({ name, count, threads = 1 }: { name: string; count: number; threads?: number }) {
    const { events } = runs.get(name) as { events: Events };
    torch.setNumThreads(threads);
    const before = { ...communication };
    const start = performance.now();
    let [done, waited, stepped] = [0, 0, start];
    let busy: { steps: number; ms: number; seconds: number } | undefined;
    while (done < count) {
      const { value } = await events.next();
      if (value?.type === "step") {
        done++;
        stepped = performance.now();
        waited += value.metrics.communication_share ?? 0;
      }
      if (value?.type === "warning") throw new Error(value.message);
      // One that comes before the first step is of the steps before.
      if (value?.type === "checkpoint" && done > 0) {
        busy = { steps: done, ms: (stepped - start) / done, seconds: value.seconds };
      }
    }
    return {
      ms: (performance.now() - start) / count,
      bytes: (communication.bytes - before.bytes) / count,
      waitShare: waited / count,
      ...(busy && { busy }),
    };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: what, ...options } = JSON.parse(line);
  process.stdout.write(`${JSON.stringify(await commands[what](options as never))}\n`);
}
