import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach } from "vitest";
import type { Decoder } from "../../lib/model/index.js";
import * as torch from "../../lib/torch/index.js";
import { Curriculum, type RunOptions, type Stage, type StepEvent, type TrainEvent } from "../../lib/train/index.js";

export { Counting, data, tinyModel, tinyStages } from "./tiny.js";

/** A folder that is gone after the test. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "diffcoder-train-"));
  folders.push(folder);
  return folder;
}

const folders: string[] = [];
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

/** Runs a curriculum to its end, or until `stop` says so, and gives back what it told. */
export async function collect(
  stages: readonly Stage[],
  options: RunOptions,
  stop: (event: TrainEvent) => boolean = () => false,
): Promise<TrainEvent[]> {
  const events: TrainEvent[] = [];
  for await (const event of new Curriculum(stages).run(options)) {
    events.push(event);
    if (stop(event)) break;
  }
  return events;
}

/** Steps whose metrics a test takes to be there: it fails where one is not. */
type MeasuredStep = StepEvent & { metrics: Record<string, number> & Required<StepEvent["metrics"]> };

export const stepsOf = (events: readonly TrainEvent[]) =>
  events.filter((event): event is MeasuredStep => event.type === "step");

/** The metrics that do not depend on the clock or on what else the process does. */
export function repeatable({ metrics, ...event }: StepEvent) {
  const { step_seconds: _a, data_seconds: _b, tokens_per_second: _c, positions_per_second: _d, ...rest } = metrics;
  const { rss: _e, live_tensors: _f, ...numbers } = rest;
  return { stage: event.stage, step: event.step, globalStep: event.globalStep, tokens: event.tokens, numbers };
}

/** All weights as bytes, to compare bit for bit. */
export function bytesOf(model: Decoder): string {
  return torch.scope(() =>
    model
      .parameters()
      .map((parameter) => Buffer.from(parameter.detach().toTypedArray().buffer as ArrayBuffer).toString("base64"))
      .join("|"),
  );
}

/** All weights as numbers. */
export function numbersOf(model: Decoder): number[] {
  return torch.scope(() =>
    model.parameters().flatMap((parameter) => Array.from(parameter.detach().toTypedArray(), Number)),
  );
}
