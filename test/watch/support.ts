import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterEach } from "vitest";
import type { FailedEvent, RunInfo, StepEvent, TrainEvent } from "../../lib/train/index.js";

const root = fileURLToPath(new URL("../../", import.meta.url));
const tsx = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;

/** The command line from its sources: these tests need nothing compiled, and no addon. */
export const DIFFCODER = [process.execPath, "--import", tsx, join(root, "lib", "cli", "main.ts")];

export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "diffcoder-watch-"));
  folders.push(folder);
  return folder;
}

const folders: string[] = [];
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

export type Logged = (TrainEvent | FailedEvent) & { time?: string };

export const lineOf = (event: Logged) => `${JSON.stringify({ time: new Date().toISOString(), ...event })}\n`;

/** The environment of a command whose output is compared: no colours, whatever runs the tests asks for. */
export const PLAIN = { ...process.env, NO_COLOR: "1", FORCE_COLOR: undefined };

/** Writes a run's log as the sink does. */
export function writeLog(out: string, events: readonly Logged[]): string {
  const path = join(out, "metrics.jsonl");
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, events.map(lineOf).join(""));
  return path;
}

export const stages = [
  { name: "compress", kind: "autoregressive", steps: 40, globalBatchSize: 4, seqLen: 16, positionsPerToken: 1 },
  { name: "cpt", kind: "block-diffusion", steps: 60, globalBatchSize: 4, seqLen: 16, positionsPerToken: 2 },
];

export const facts: RunInfo = {
  parameters: 5_600_000,
  model: "4 layers of 256, 4 heads (2 for keys and values), vocabulary 4096",
  device: "cpu",
  seed: 3,
  stages,
  versions: { "stable-diffcoder": "0.1.0", node: "20.20.2" },
  startedAt: "2026-01-01T00:00:00.000Z",
};

export function stepEvent(globalStep: number, changes: Partial<StepEvent> = {}): StepEvent {
  const stage = globalStep <= 40 ? 0 : 1;
  const metrics = {
    loss: 8 * Math.exp(-globalStep / 20) + 2,
    grad_norm: 1 + (globalStep % 7) / 10,
    lr: 3e-4,
    step_seconds: 0.5,
    data_seconds: 0.002,
    tokens_per_second: 128,
    rss: 2 ** 30,
    ...(stage === 1 && { u_max: (globalStep - 40) / 60 }),
  };
  const step = globalStep - (stage === 0 ? 0 : 40);
  const at = { stage, name: stages[stage].name, step, globalStep };
  return {
    type: "step",
    ...at,
    steps: stages[stage].steps,
    tokens: 64 * globalStep,
    elapsed: globalStep / 2,
    metrics,
    ...changes,
  };
}

/** A run of two stages up to a step, with all kinds of events in it. */
export function eventsUpTo(last: number, changes: { run?: Partial<RunInfo>; ranks?: number } = {}): Logged[] {
  const { run, ranks = 0 } = changes;
  const events: Logged[] = [{ type: "start", globalStep: 0, run: { ...facts, ...run } }];
  for (let step = 1; step <= last; step++) {
    const event = stepEvent(step);
    const { stage, name } = event;
    const at = { stage, name, step: event.step, globalStep: step };
    if (event.step === 1) {
      events.push({ type: "stage-start", stage, name, step: 0, globalStep: step - 1, info: stages[stage] });
    }
    if (ranks > 0) {
      const seconds = (rank: number) => (rank === 1 ? 0.9 : 0.5 + rank / 1000);
      event.perRank = Array.from({ length: ranks }, (_, rank) => ({
        rank,
        seconds: seconds(rank),
        dataSeconds: 0.001,
        rss: 2 ** 30,
      }));
      Object.assign(event.metrics, { ranks, communication_share: 0.12, straggler: 0.8, slowest_rank: 1 });
    }
    events.push(event);
    if (step % 20 === 0) {
      events.push({ type: "checkpoint", ...at, checkpoint: `step-${step}`, path: `/x/step-${step}`, seconds: 1 });
      events.push({ type: "evaluation", ...at, metrics: { bits_per_byte: 3 - step / 100 } });
      const text = "):\n\treturn 日本語\u001b[2J\n";
      events.push({ type: "sample", ...at, samples: [{ prompt: `def f${step}(`, text, note: "4 forwards" }] });
    }
    if (step === 40) events.push({ type: "stage-end", ...at, seconds: 20, tokens: 2560 });
  }
  return events;
}
