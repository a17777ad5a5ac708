import colors from "picocolors";
import type { RankStats, RunInfo } from "../../train/events.js";
import { compact, duration, number } from "../../train/format.js";
import { metricInfo } from "../../train/metrics.js";
import { meshText } from "../../train/sinks/summary.js";
import { printable } from "../canvas.js";
import {
  cutText,
  drawChart,
  fitLine,
  type Line,
  lineWidth,
  type Piece,
  paintLine,
  type Style,
  sparkline,
  spread,
  stageStyle,
} from "./chart.js";
import { bytes, formatMetric, metricNames, pointsOf, SMOOTHING, seconds, smoothed } from "./metric-view.js";
import type { WatchedRun } from "./watched-run.js";

/** Settings that the keys change. */
export interface View {
  metric: string;
  /** Index in {@link SMOOTHING}. */
  smoothing: number;
  log: boolean;
}

export interface FrameOptions {
  columns: number;
  rows: number;
  view: View;
  /** Milliseconds since 1970. */
  now: number;
  /** Number of this run, from 1, and the total; shown if there are several. */
  place: { index: number; of: number };
  /** Whether keys are available; the line that explains them is shown only then. */
  keys: boolean;
}

/** The dashboard: exactly `rows` lines of `columns` columns, including colors. */
export function drawFrame(run: WatchedRun, options: FrameOptions): string[] {
  const { columns, rows, keys } = options;
  const top = [...header(run, options), ...progress(run, columns), ...numbers(run, columns, rows)];
  const bottom = [...notes(run, options), ...sample(run, columns, rows), ...(keys ? [help(options)] : [])];
  const room = rows - top.length - bottom.length;
  const middle = room >= 3 ? body(run, options, room) : [];
  const lines = [...top, ...middle, ...bottom];
  // On a very small screen, show the beginning.
  while (lines.length < rows) lines.push([]);
  return lines.slice(0, rows).map((line) => paintLine(fitLine(line, columns)));
}

const STATES: Record<string, readonly [text: string, style: Style]> = {
  waiting: ["○ waiting for its log", colors.gray],
  running: ["● training", colors.cyan],
  done: ["✔ finished", colors.green],
  stopped: ["■ stopped", colors.yellow],
  failed: ["✖ failed", colors.red],
};

/** Without an event for this long, or for twenty steps, a run may be dead. */
const QUIET_SECONDS = 60;

function header(run: WatchedRun, { columns, now, place }: FrameOptions): Line[] {
  const { report } = run;
  const state = run.waiting ? "waiting" : report.state;
  const name = printable(run.name);
  const pieces: Piece[] = [[name, colors.bold], ["  "], STATES[state]];
  if (report.message !== undefined) pieces.push([`: ${firstLine(report.message)}`, colors.red]);
  const age = run.at === undefined ? undefined : Math.max(0, (now - run.at) / 1000);
  if (state === "running" && age !== undefined) {
    const patience = Math.max(QUIET_SECONDS, 20 * (run.step?.metrics.step_seconds ?? 0));
    if (age > patience) pieces.push([`, silent for ${duration(age)}`, colors.yellow]);
  }
  const right: Piece[] = [];
  if (report.elapsed > 0) right.push([duration(report.elapsed), colors.gray]);
  if (place.of > 1) right.push([`${right.length > 0 ? "  " : ""}run ${place.index} of ${place.of}`, colors.bold]);
  const facts = factsOf(run);
  return [spread(pieces, right, columns), [[cutText(facts, columns), colors.gray]]];
}

function factsOf({ report, waiting }: WatchedRun): string {
  if (waiting) return "It appears here as soon as metrics.jsonl does.";
  const run = report.run as Partial<RunInfo> | null;
  if (!run) return "";
  const parts = [
    run.parameters === undefined ? undefined : `${compact(run.parameters)} parameters`,
    run.device,
    run.parallel && meshText(run.parallel),
    run.model, // last, because a narrow screen truncates it
  ];
  return printable(parts.filter((part) => part !== undefined).join(" · "));
}

/** The stages in one row, and below it the progress of the current one. */
function progress(run: WatchedRun, columns: number): Line[] {
  const { stage, stages, report } = run;
  if (stages.length === 0) return [];
  const strip: Piece[] = [];
  stages.forEach(({ name }, index) => {
    const known = report.stages.find((each) => each.index === index);
    const isOver = known !== undefined && known.end !== null;
    const isNow = known !== undefined && !isOver;
    const style = stageStyle(index);
    if (index > 0) strip.push([" → ", colors.gray]);
    if (isOver) strip.push(["✔ ", style], [printable(name), style]);
    else if (isNow) strip.push([printable(name), (text) => colors.bold(style(text))]);
    else strip.push([printable(name), colors.gray]);
  });
  const tokens: Line = report.tokens > 0 ? [[`${compact(report.tokens)} tokens`, colors.gray]] : [];
  const first = spread(strip, tokens, columns);
  if (!stage) return [first];
  const { step, steps, index } = stage;
  const share = steps ? Math.min(1, step / steps) : 0;
  const left = run.isOver || run.secondsLeft === undefined ? "" : `  ${duration(run.secondsLeft)} left`;
  const text = ` ${Math.floor(100 * share)} %  ${step}/${steps ?? "?"}${left}`;
  const size = Math.max(8, columns - text.length);
  const done = Math.round(share * size);
  return [first, [["━".repeat(done), stageStyle(index)], ["─".repeat(size - done), colors.gray], [text]]];
}

/** The most important come first, because a small screen shows only the beginning of the list. */
const NUMBERS = [
  "loss",
  "tokens_per_second",
  "lr",
  "grad_norm",
  "mfu",
  "u_max",
  "communication_share",
  "straggler",
  "step_seconds",
  "data_seconds",
  "device_memory",
  "rss",
];
const SHORT: Record<string, string> = {
  loss: "loss",
  lr: "rate",
  grad_norm: "grad norm",
  tokens_per_second: "tokens",
  mfu: "MFU",
  step_seconds: "step",
  data_seconds: "data wait",
  device_memory: "device",
  rss: "memory",
  communication_share: "comm.",
};
const CELL = 26;
const LABEL = 9;

/** The latest values, each with a sparkline. */
function numbers({ step, report }: WatchedRun, columns: number, rows: number): Line[] {
  if (!step) return [];
  const shown = NUMBERS.filter((name) => step.metrics[name] !== undefined);
  const perLine = Math.max(1, Math.floor((columns + 2) / CELL));
  const width = Math.floor((columns + 2) / perLine) - 2;
  const most = rows < 22 ? 2 : rows < 28 ? 3 : 4;
  const cells = shown.slice(0, perLine * most).map((name): Line => {
    const recent = report.rows.slice(-60).flatMap(({ mean }) => mean[name] ?? []);
    const label = SHORT[name] ?? name;
    const value = formatMetric(name, step.metrics[name]);
    const room = Math.max(0, width - 2 * (LABEL + 1));
    const spark = sparkline(bucketed(recent, room), room);
    return fitLine(
      [[`${label.padEnd(LABEL)} `, colors.gray], [value.padStart(LABEL), colors.bold], [" "], [spark, colors.cyan]],
      width,
    );
  });
  const lines: Line[] = [];
  for (let i = 0; i < cells.length; i += perLine) {
    lines.push(cells.slice(i, i + perLine).flatMap((cell, j) => (j > 0 ? [["  "] as const, ...cell] : [...cell])));
  }
  return lines;
}

/** Means of adjacent values, so that the whole curve fits. */
function bucketed(values: readonly number[], count: number): number[] {
  if (values.length <= count) return [...values];
  return Array.from({ length: count }, (_, i) => {
    const part = values.slice(Math.floor((i * values.length) / count), Math.floor(((i + 1) * values.length) / count));
    return part.reduce((sum, value) => sum + value, 0) / part.length;
  });
}

/** The chart, with the table of ranks beside or below it. */
function body(run: WatchedRun, options: FrameOptions, room: number): Line[] {
  const { columns } = options;
  if (run.waiting) return Array.from({ length: room }, () => []);
  const perRank = run.step?.perRank;
  if (!perRank || perRank.length === 0) return chart(run, options, columns, room);
  if (columns >= 100) {
    const width = Math.min(56, Math.floor(columns * 0.43));
    const side = rankTable(perRank, width, room);
    const main = chart(run, options, columns - width - 2, room);
    return main.map((line, i) => [...fitLine(line, columns - width - 2), ["  "], ...(side[i] ?? [])]);
  }
  const height = Math.min(perRank.length + 1, Math.max(4, Math.floor(room / 3)));
  if (room < 9) return chart(run, options, columns, room);
  return [...chart(run, options, columns, room - height), ...rankTable(perRank, columns, height)];
}

function chart({ report }: WatchedRun, { view }: FrameOptions, columns: number, rows: number): Line[] {
  const { metric, smoothing, log } = view;
  const raw = pointsOf(report, metric);
  const share = SMOOTHING[smoothing];
  const curve = share > 0 && raw.length > 8 ? smoothed(raw, share) : raw;
  const { unit, title } = metricInfo(metric.replace(/^evaluation\//, ""));
  const heading = metric.startsWith("evaluation/") ? printable(metric) : title;
  const latest = curve.at(-1)?.y;
  const names = metricNames(report);
  const place = names.indexOf(metric) + 1;
  const left: Piece[] = [[heading, colors.bold]];
  if (latest !== undefined) left.push(["  "], [formatMetric(metric, latest), colors.bold]);
  const details = [
    ...(log ? ["logarithmic"] : []),
    ...(place > 0 ? [`${place}/${names.length}`] : []),
    share > 0 ? `smoothed over ${share * 100} % of a stage` : "every step",
    ...(unit === "nats" ? ["nats"] : []),
  ];
  while (details.length > 0 && lineWidth(left) + details.join(" · ").length + 2 > columns) details.pop();
  const chartLines = drawChart(curve, curve === raw ? [] : raw, {
    columns,
    rows: rows - 1,
    log,
    style: stageStyle,
    formatX: (value) => `step ${number(value)}`,
    formatY: (value) => formatMetric(metric, value),
  });
  return [spread(left, [[details.join(" · "), colors.gray]], columns), ...chartLines];
}

/** Lines with the last checkpoint, the skipped steps and the latest warning. */
function notes(run: WatchedRun, { columns, now }: FrameOptions): Line[] {
  const lines: Line[] = [];
  const { checkpoint, skipped, report } = run;
  const parts: Piece[] = [];
  if (checkpoint) {
    const age = Number.isFinite(checkpoint.at) ? `, ${duration((now - checkpoint.at) / 1000)} ago` : "";
    parts.push(["saved ", colors.gray], [`${printable(checkpoint.name)} at step ${checkpoint.step}${age}`]);
  } else if (!run.waiting && !run.isOver) parts.push(["no checkpoint yet", colors.gray]);
  if (skipped.length > 0) {
    const { step, cause } = skipped[skipped.length - 1];
    const text = `${skipped.length} skipped, the last at ${step} (${cause})`;
    parts.push([parts.length > 0 ? "   " : ""], [text, colors.yellow]);
  }
  if (parts.length > 0) lines.push(parts);
  const warning = report.warnings.at(-1);
  if (warning) {
    const count = report.warnings.length > 1 ? `${report.warnings.length} warnings, the last: ` : "warning: ";
    lines.push([[cutText(`${count}${firstLine(warning.message)}`, columns), colors.yellow]]);
  }
  return lines;
}

/** The beginning of the latest sample, with the number of lines that fit on the screen. */
function sample({ sample: event }: WatchedRun, columns: number, rows: number): Line[] {
  const first = event?.samples[0];
  if (!event || !first) return [];
  const most = rows < 24 ? 2 : Math.min(8, Math.floor(rows / 5));
  const note = first.note === undefined ? "" : ` · ${first.note}`;
  const title = printable(`sample at step ${event.globalStep}${note}`);
  const prompt = textLines(first.prompt ?? "");
  const text = textLines(first.text.replace(/\n\s*\n/g, "\n")); // empty lines are removed to save space
  // The text's first line continues the prompt's last one.
  const lines: Piece[][] = prompt.map((line): Piece[] => [[line, colors.gray]]);
  const joint = lines.pop() ?? [];
  lines.push([...joint, [text[0] ?? ""]]);
  for (const line of text.slice(1)) lines.push([[line]]);
  return [[[cutText(title, columns), colors.gray]], ...lines.slice(0, most).map((line) => [["  "] as const, ...line])];
}

function textLines(text: string): string[] {
  return text.split("\n").map((line) => printable(line.replaceAll("\t", "    ")));
}

/** The first line of a message, without control characters. */
export function firstLine(text: string): string {
  return printable(text.split("\n", 1)[0]);
}

function help({ columns, place }: FrameOptions): Line {
  const keys: readonly (readonly [string, string])[] = [
    ["q", "quit"],
    ["← →", "metric"],
    ["s", "smoothing"],
    ["l", "log axis"],
    ...(place.of > 1 ? ([["tab", "next run"]] as const) : []),
  ];
  const line = keys.flatMap(([key, text], i): Piece[] => [
    [i > 0 ? "   " : ""],
    [key, colors.bold],
    [` ${text}`, colors.gray],
  ]);
  return lineWidth(line) <= columns ? line : fitLine(line, columns);
}

/** A rank that is slower than the median by this share is a straggler. */
const BEHIND = 0.1;

/**
 * What each rank reports about the latest step: its time with a bar, its wait for data, and its memory. If not all fit,
 * the slowest are shown.
 */
export function rankTable(perRank: readonly RankStats[], columns: number, rows: number): Line[] {
  const bySpeed = [...perRank].sort((a, b) => b.seconds - a.seconds);
  const longest = bySpeed[0].seconds;
  const median = bySpeed[Math.floor(bySpeed.length / 2)].seconds;
  const fits = perRank.length <= rows - 1;
  const shown = fits ? perRank : bySpeed.slice(0, Math.max(1, rows - 2));
  const room = columns - 43;
  const bar = room < 4 ? 0 : Math.min(20, room);
  const heading: Piece[] = [
    ["rank", colors.bold],
    [`${"step".padStart(9)}${" ".repeat(bar + 1)}${"data".padStart(9)}${"memory".padStart(11)}`, colors.gray],
  ];
  const lines: Line[] = shown.map(({ rank, seconds: time, dataSeconds, rss }) => {
    const isSlow = rank === bySpeed[0].rank && time > (1 + BEHIND) * median;
    const style = isSlow ? colors.yellow : colors.cyan;
    const length = longest > 0 ? Math.round((time / longest) * bar) : 0;
    const numbers = `${seconds(dataSeconds).padStart(9)}${bytes(rss).padStart(11)}`;
    return [
      [String(rank).padStart(4), isSlow ? colors.yellow : undefined],
      [seconds(time).padStart(9)],
      [` ${"▆".repeat(length)}${" ".repeat(bar - length)}`, style],
      [numbers, colors.gray],
      [isSlow ? " slowest" : "", colors.yellow],
    ];
  });
  if (!fits) lines.push([[`and ${perRank.length - shown.length} more that were faster`, colors.gray]]);
  return [heading, ...lines].slice(0, rows).map((line) => fitLine(line, columns));
}
