import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect } from "vitest";
import { loadWeights } from "../../lib/checkpoint/index.js";
import type { Decoder } from "../../lib/model/index.js";
import * as torch from "../../lib/torch/index.js";
import { Curriculum, type StepEvent, type TrainEvent } from "../../lib/train/index.js";
import { tinyModel, tinyStages } from "../train/tiny.js";
import type { TrainOrder } from "./children/train.js";
import { runRanks } from "./support.js";

const folders: string[] = [];
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});
/** A folder that is gone after the test. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "diffcoder-distributed-"));
  folders.push(folder);
  return folder;
}

/** Steps whose metrics a test takes to be there: it fails where one is not. */
type MeasuredStep = StepEvent & { metrics: Record<string, number> & Required<StepEvent["metrics"]> };

export const stepsOf = (events: readonly TrainEvent[]) =>
  events.filter((event): event is MeasuredStep => event.type === "step");
const numbersOf = (model: Decoder) =>
  torch.scope(() => model.parameters().flatMap((parameter) => Array.from(parameter.detach().toTypedArray(), Number)));

/** The weights of a run's last checkpoint, whoever wrote it. */
export async function finalWeights(out: string, shape?: TrainOrder["model"]): Promise<number[]> {
  using model = tinyModel(shape);
  await loadWeights(model, join(out, "checkpoints", "final"));
  return numbersOf(model);
}

/** A run by several processes: the events of each, and the weights it ends with. */
export async function train(size: number, order: TrainOrder) {
  const out = order.run?.outputDir ?? temporaryFolder();
  const orders = { ...order, run: { sinks: [], checkpointEvery: {}, ...order.run, outputDir: out } };
  const ranks = await runRanks<{ events: TrainEvent[] }>("train.ts", { size, args: [JSON.stringify(orders)] });
  return { ranks: ranks.map(({ events }) => events), out, weights: await finalWeights(out, order.model) };
}

/** The same run in this process. */
export async function alone(order: Omit<TrainOrder, "fault"> = {}) {
  const { steps, globalBatchSize = 4, gradientAccumulationSteps = 1, run } = order;
  using model = tinyModel(order.model);
  const stages = tinyStages({ steps }).map((stage) => ({ ...stage, globalBatchSize, gradientAccumulationSteps }));
  const events: TrainEvent[] = [];
  for await (const event of new Curriculum(stages).run({ model, seed: 3, sinks: [], ...run })) events.push(event);
  return { events, weights: numbersOf(model) };
}

/** The same numbers in every step, but for the order of sums. */
export function expectSame(events: readonly TrainEvent[], reference: readonly TrainEvent[], tolerance = 1e-6): void {
  const [steps, expected] = [stepsOf(events), stepsOf(reference)];
  expect(steps).toHaveLength(expected.length);
  for (const [i, { metrics }] of steps.entries()) {
    const { loss, grad_norm: norm, lr, u_max: uMax } = expected[i].metrics;
    expect(Math.abs(metrics.loss - loss), `loss of step ${i + 1}`).toBeLessThan(tolerance * Math.max(1, loss));
    expect(Math.abs(metrics.grad_norm - norm), `norm of step ${i + 1}`).toBeLessThan(
      20 * tolerance * Math.max(1, norm),
    );
    expect(metrics.lr).toBe(lr);
    if (uMax !== undefined) expect(metrics.u_max).toBeCloseTo(uMax, 12);
    if (metrics.masked_share !== undefined) {
      expect(metrics.masked_share).toBeCloseTo(expected[i].metrics.masked_share, 12);
      expect(metrics.masked_nll).toBeCloseTo(expected[i].metrics.masked_nll, 5);
    }
  }
}

export function expectClose(weights: readonly number[], reference: readonly number[], tolerance = 2e-5): void {
  expect(weights).toHaveLength(reference.length);
  const worst = weights.reduce((most, value, i) => Math.max(most, Math.abs(value - reference[i])), 0);
  expect(worst).toBeLessThan(tolerance);
}
