// One rank of a run of the tiny curriculum: what the trainer's tests compare with a process of its own.
import type { Decoder } from "../../../lib/model/index.js";
import { AdamW, type Optimizer } from "../../../lib/nn/index.js";
import { Curriculum, type Objective, type RunOptions, type Stage, type TrainEvent } from "../../../lib/train/index.js";
import { tinyModel, tinyStages } from "../../train/tiny.js";
import { asRank } from "../rank.js";

export interface TrainOrder {
  run?: Partial<RunOptions>;
  /** Steps of the middle stage, of block diffusion. */
  steps?: number;
  /** Of every stage. */
  globalBatchSize?: number;
  gradientAccumulationSteps?: number;
  model?: Parameters<typeof tinyModel>[0];
  /** An optimiser of the user's own, and what it says of itself. */
  ownOptimizer?: { elementwise?: boolean };
  /** What befalls a rank after a global step. */
  fault?: { rank: number; step: number; kind: "kill" | "stop" | "throw" | "hang" | "abort" | "leave" };
}

/** AdamW behind an object of the user's own. */
const own = ({ elementwise }: { elementwise?: boolean }) => {
  return (model: Decoder): Optimizer => {
    const inner = new AdamW(model.namedParameters());
    return {
      ...(elementwise !== undefined && { elementwise }),
      step: (lr) => inner.step(lr),
      zeroGrad: () => inner.zeroGrad(),
      stateDict: () => inner.stateDict(),
      loadStateDict: (state) => inner.loadStateDict(state),
      dispose: () => inner.dispose(),
    };
  };
};

await asRank(async ({ rank, device }) => {
  const order = JSON.parse(process.argv[2]) as TrainOrder;
  const { run = {}, steps: cptSteps, globalBatchSize = 4, gradientAccumulationSteps = 1, fault, ownOptimizer } = order;
  const model = tinyModel(order.model);
  if (device !== "cpu") model.to({ device });
  let steps = 0;
  const stages = tinyStages({ steps: cptSteps }).map((stage): Stage => {
    const objective: Objective = (...args) => {
      if (fault?.kind === "throw" && fault.rank === rank && steps === fault.step)
        throw new RangeError("the user's own mistake");
      return stage.objective(...args);
    };
    return {
      ...stage,
      globalBatchSize,
      gradientAccumulationSteps,
      objective,
      ...(ownOptimizer && { optimizer: own(ownOptimizer) }),
    };
  });
  const controller = new AbortController();
  process.on("SIGTERM", () => controller.abort());
  const events: TrainEvent[] = [];
  for await (const event of new Curriculum(stages).run({ model, seed: 3, signal: controller.signal, ...run })) {
    events.push(event);
    if (event.type === "step") steps = event.globalStep;
    if (fault?.kind === "leave" && fault.rank === rank && steps === fault.step) break;
    if (event.type === "step") process.stdout.write(`step ${event.globalStep}\n`);
    if (!fault || fault.rank !== rank || event.type !== "step" || event.globalStep !== fault.step) continue;
    if (fault.kind === "kill") process.kill(process.pid, "SIGKILL");
    if (fault.kind === "stop") process.kill(process.pid, "SIGSTOP");
    if (fault.kind === "hang") for (;;);
    if (fault.kind === "abort") controller.abort();
  }
  return { events };
});
