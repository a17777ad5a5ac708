// One rank of tiny runs that may differ from the others. mismatch-entry.ts says from which copy of the library it comes.
import { destroyProcessGroup, initProcessGroup } from "../../../lib/distributed/index.js";
import { adamw, autoregressive, Curriculum, type RunOptions, type Stage } from "../../../lib/train/index.js";
import { Counting, tinyModel } from "../../train/tiny.js";
import { report } from "../rank.js";

/** What a rank does; the defaults are those of all. */
export interface MismatchOrder {
  run?: Partial<RunOptions>;
  lr?: number;
  globalBatchSize?: number;
  gradientAccumulationSteps?: number;
  steps?: number;
  name?: string;
  samples?: number;
  decay?: number;
  precision?: "float32" | "bfloat16";
  model?: Parameters<typeof tinyModel>[0];
  /** An objective with another text. */
  ownObjective?: boolean;
  /** Two stages in another order. */
  swapped?: boolean;
  /** Seconds before it begins the run. */
  late?: number;
  /** Seconds that it waits for the others to begin. */
  init?: number;
}

/** How one run ended. */
export interface MismatchOutcome {
  steps?: number;
  code?: string;
  message?: string;
  /** From joining on. */
  seconds: number;
}

/** Tries one run after the other, each with a store of its own; ends with code 1 if one failed. */
export async function main(orders: readonly MismatchOrder[], ports: readonly number[]): Promise<void> {
  const outcomes: MismatchOutcome[] = [];
  for (const [i, order] of orders.entries()) {
    process.env.MASTER_PORT = String(ports[i]);
    outcomes.push(await attempt(order));
  }
  await report(outcomes);
  process.exit(outcomes.some(({ code }) => code !== undefined) ? 1 : 0);
}

async function attempt(order: MismatchOrder): Promise<MismatchOutcome> {
  const start = performance.now();
  const seconds = () => (performance.now() - start) / 1000;
  try {
    await initProcessGroup({ backend: "gloo", timeout: 40 });
    await new Promise((done) => setTimeout(done, 1000 * (order.late ?? 0)));
    const parallel = { timeouts: { init: order.init ?? 30 }, ...order.run?.parallel };
    const run = new Curriculum(stagesOf(order)).run({
      model: tinyModel(order.model),
      sinks: [],
      ...order.run,
      parallel,
    });
    let steps = 0;
    for await (const event of run) if (event.type === "step") steps++;
    return { steps, seconds: seconds() };
  } catch (error) {
    const { code = "none", message } = error as { code?: string; message: string };
    return { code, message, seconds: seconds() };
  } finally {
    await destroyProcessGroup();
  }
}

function stagesOf(order: MismatchOrder): Stage[] {
  const {
    lr = 1e-3,
    globalBatchSize = 4,
    gradientAccumulationSteps = 1,
    steps = 3,
    name = "only",
    samples = 37,
  } = order;
  const { precision = "float32", decay = 0.1 } = order;
  const common = { data: new Counting(samples), lr, globalBatchSize, gradientAccumulationSteps, precision };
  const stages = [
    autoregressive({ ...common, name, steps, optimizer: adamw({ weightDecay: decay }) }),
    autoregressive({ ...common, name: "second", steps }),
  ];
  if (order.swapped) stages.reverse();
  if (order.ownObjective) {
    const { objective } = stages[0];
    stages[0] = { ...stages[0], objective: (...args) => objective(...args) };
  }
  return stages;
}
