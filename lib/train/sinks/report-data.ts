import * as z from "zod";
import { isStepCheckpoint } from "../../checkpoint/layout.js";
import type { FailedEvent, RankStats, StageInfo, TrainEvent } from "../events.js";

const step = z.int().min(0);
const numbers = z.record(z.string(), z.number());

const rowSchema = z.object({
  /** Last global step of the row, its stage and the number of steps that it covers. */
  step,
  stage: step,
  count: z.int().min(1),
  /** Means over the steps that have the metric, and the number of those steps if not all have it. */
  mean: numbers,
  /** The highest loss and gradient norm among them. */
  peak: numbers,
  /** Clean tokens and seconds of training of the whole run at the end of the row. */
  tokens: z.number().optional(),
  elapsed: z.number().optional(),
});
type Row = z.infer<typeof rowSchema>;

const stageSchema = z.object({
  index: step,
  name: z.string(),
  kind: z.string(),
  /** Global steps before its first and after its last step; null while the stage is running. */
  begin: step,
  end: step.nullable(),
  seconds: z.number().nullable(),
  tokens: z.number().nullable(),
});

/** Per rank: sums over the steps that report it, how often it was the slowest, and its current memory. */
const rankSchema = z.object({
  rank: step,
  steps: step,
  seconds: z.number(),
  dataSeconds: z.number(),
  slowest: step,
  rss: z.number(),
});

/** The data of a report, as embedded in the page. */
export const reportStateSchema = z.object({
  format: z.literal(1),
  title: z.string(),
  state: z.enum(["running", "done", "stopped", "failed"]),
  message: z.string().optional(),
  updatedAt: z.string(),
  run: z
    .looseObject({})
    .transform((run) => currentRun(run))
    .nullable(),
  steps: step,
  tokens: z.number(),
  elapsed: z.number(),
  stages: z.array(stageSchema),
  rows: z.array(rowSchema),
  ranks: z.array(rankSchema).optional(),
  evaluations: z.array(z.object({ step, stage: step, metrics: numbers })),
  samples: z.array(
    z.object({
      step,
      stage: step,
      samples: z.array(z.object({ prompt: z.string().optional(), text: z.string(), note: z.string().optional() })),
    }),
  ),
  checkpoints: z.array(z.object({ step, name: z.string() })),
  warnings: z.array(z.object({ step, code: z.string(), message: z.string() })),
});
export type ReportState = z.infer<typeof reportStateSchema>;

/** Metrics whose single spikes matter. */
const PEAKS = ["loss", "grad_norm"];
const MAX_ROWS = 4000;
const MAX_ENTRIES = 300;

export function newReport(title: string): ReportState {
  return {
    format: 1,
    title,
    state: "running",
    updatedAt: new Date().toISOString(),
    run: null,
    steps: 0,
    tokens: 0,
    elapsed: 0,
    stages: [],
    rows: [],
    evaluations: [],
    samples: [],
    checkpoints: [],
    warnings: [],
  };
}

/** A logged event with the current option names: logs of 0.1.0 have older names for the options of stages. */
export function currentEvent(logged: TrainEvent): TrainEvent {
  if (logged.type === "start") return { ...logged, run: currentRun(logged.run) };
  if (logged.type !== "stage-start") return logged;
  const { facts, ...event } = logged as typeof logged & { facts?: StageInfo };
  return { ...event, info: currentStage(facts ?? event.info) };
}

function currentRun<Run extends { stages?: unknown; outputDir?: unknown }>(logged: Run): Run {
  const { out, ...run } = logged as Run & { out?: string };
  return {
    ...run,
    outputDir: run.outputDir ?? out,
    ...(Array.isArray(run.stages) && { stages: run.stages.map(currentStage) }),
  } as unknown as Run;
}

function currentStage({ batchSize, length, ...stage }: StageInfo & { batchSize?: number; length?: number }): StageInfo {
  const { globalBatchSize = batchSize as number, seqLen = length as number } = stage;
  return { ...stage, globalBatchSize, seqLen };
}

/**
 * Adds an event to a report's state.
 *
 * @param at time of the event; for an event from a log, the time in the log
 */
export function addToReport(report: ReportState, event: TrainEvent | FailedEvent, at = new Date()): void {
  report.updatedAt = at.toISOString();
  switch (event.type) {
    case "start":
      report.run = { ...event.run };
      report.state = "running";
      report.message = undefined;
      report.ranks = undefined; // a resumed run may have other ranks
      cutAfter(report, event.globalStep);
      break;
    case "stage-start": {
      const { name, kind } = event.info;
      const begin = event.globalStep - event.step;
      report.stages = report.stages.filter((stage) => stage.index < event.stage);
      report.stages.push({ index: event.stage, name, kind, begin, end: null, seconds: null, tokens: null });
      break;
    }
    case "step": {
      const peak = Object.fromEntries(PEAKS.flatMap((name) => entry(name, event.metrics[name])));
      const { globalStep, stage, metrics, tokens, elapsed } = event;
      report.rows.push({ step: globalStep, stage, count: 1, mean: { ...metrics }, peak, tokens, elapsed });
      report.steps = event.globalStep;
      report.tokens = event.tokens;
      report.elapsed = event.elapsed;
      if (report.rows.length > MAX_ROWS) report.rows = halve(report.rows);
      if (event.perRank) addRanks(report, event.perRank);
      break;
    }
    case "evaluation":
      report.evaluations.push({ step: event.globalStep, stage: event.stage, metrics: finite(event.metrics) });
      break;
    case "sample":
      report.samples.push({ step: event.globalStep, stage: event.stage, samples: event.samples });
      // The first and the latest samples are the most informative.
      if (report.samples.length > 40) report.samples.splice(5, 1);
      break;
    case "checkpoint":
      if (!isStepCheckpoint(event.checkpoint))
        report.checkpoints.push({ step: event.globalStep, name: event.checkpoint });
      break;
    case "warning":
      report.warnings.push({ step: event.globalStep, code: event.code, message: event.message });
      if (report.warnings.length > MAX_ENTRIES) report.warnings.shift();
      break;
    case "stage-end": {
      const stage = report.stages.find(({ index }) => index === event.stage);
      if (stage) Object.assign(stage, { end: event.globalStep, seconds: event.seconds, tokens: event.tokens });
      break;
    }
    case "aborted":
      report.state = "stopped";
      break;
    case "done":
      report.state = "done";
      break;
    case "failed":
      report.state = "failed";
      report.message = event.message;
      break;
  }
}

function addRanks(report: ReportState, perRank: readonly RankStats[]): void {
  const slowest = perRank.reduce((worst, each) => (each.seconds > worst.seconds ? each : worst), perRank[0]);
  const before = new Map(report.ranks?.map((each) => [each.rank, each]));
  report.ranks = perRank.map(({ rank, seconds, dataSeconds, rss }) => {
    const sums = before.get(rank) ?? { steps: 0, seconds: 0, dataSeconds: 0, slowest: 0 };
    return {
      rank,
      steps: sums.steps + 1,
      seconds: sums.seconds + seconds,
      dataSeconds: sums.dataSeconds + dataSeconds,
      slowest: sums.slowest + (rank === slowest.rank ? 1 : 0),
      rss,
    };
  });
}

/** A report with fewer rows per curve, for pages with several runs. Every row is the mean of some of the given ones. */
export function thinned(report: ReportState, maxRows: number): ReportState {
  let { rows } = report;
  for (let length = 0; rows.length > maxRows && rows.length !== length; ) {
    length = rows.length;
    rows = halve(rows);
  }
  return { ...report, rows };
}

/** Removes everything after a step, from which a run resumes. */
function cutAfter(report: ReportState, globalStep: number): void {
  const kept = ({ step }: { step: number }) => step <= globalStep;
  report.rows = report.rows.filter(kept);
  report.evaluations = report.evaluations.filter(kept);
  report.samples = report.samples.filter(kept);
  report.checkpoints = report.checkpoints.filter(kept);
  report.warnings = report.warnings.filter(kept);
  report.stages = report.stages.filter(({ begin }) => begin < globalStep);
  for (const stage of report.stages) if (stage.end !== null && stage.end > globalStep) stage.end = null;
  report.steps = Math.min(report.steps, globalStep);
}

/** Merges adjacent rows of one stage in pairs. */
function halve(rows: readonly Row[]): Row[] {
  const merged: Row[] = [];
  for (let i = 0; i < rows.length; i++) {
    const [a, b] = [rows[i], rows[i + 1]];
    if (b?.stage === a.stage) {
      merged.push(merge(a, b));
      i++;
    } else merged.push(a);
  }
  return merged;
}

function merge(a: Row, b: Row): Row {
  const count = a.count + b.count;
  const mean: Record<string, number> = {};
  for (const name of new Set([...Object.keys(a.mean), ...Object.keys(b.mean)])) {
    const [x, y] = [a.mean[name], b.mean[name]];
    mean[name] = x === undefined ? y : y === undefined ? x : (x * a.count + y * b.count) / count;
  }
  const peak = Object.fromEntries(
    PEAKS.flatMap((name) => entry(name, Math.max(a.peak[name] ?? -Infinity, b.peak[name] ?? -Infinity))),
  );
  return { step: b.step, stage: b.stage, count, mean, peak, tokens: b.tokens, elapsed: b.elapsed };
}

function entry(name: string, value: number | undefined): [string, number][] {
  return value !== undefined && Number.isFinite(value) ? [[name, value]] : [];
}

function finite(metrics: Record<string, number>): Record<string, number> {
  return Object.fromEntries(Object.entries(metrics).flatMap(([name, value]) => entry(name, value)));
}
