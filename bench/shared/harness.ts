import { writeFileSync } from "node:fs";
import { cpus, platform, release, totalmem } from "node:os";
import { parseArgs } from "node:util";
import * as torch from "stable-diffcoder/torch";

/** One line of a benchmark: what we need, what the peer needs, and by what factor we are better. */
export interface BenchRow {
  name: string;
  /** Medians over the rounds. */
  ours: number;
  peer: number;
  unit: string;
  /** Above 1: we are better, whatever the unit. The median of the rounds' own ratios. */
  ratio: number;
  /** Half the interquartile range of the rounds' ratios, as a share of `ratio`. */
  spread: number;
  rounds: number;
  /** Whatever else says how it was measured. */
  [detail: string]: unknown;
}

/** What the numbers depend on. */
export interface Machine {
  cpu: string;
  cores: number;
  memoryGb: number;
  os: string;
  node: string;
  torch: string;
  cpuCapability: string;
  threads: number;
  device?: string;
}

/** Measures once and returns the number, in the benchmark's unit. */
export type Measure = () => number | Promise<number>;

export interface AlternateOptions {
  /** Pairs of measurements that count. Default 7. */
  rounds?: number;
  /** Pairs before them that do not. Default 1. */
  warmup?: number;
  /** Default "ms". */
  unit?: string;
  /** "less" (times, bytes; the default) or "more" (tokens a second). */
  better?: "less" | "more";
  /** Added to the row. */
  details?: Record<string, unknown>;
}

/**
 * Measures two things in turns, ours and the peer's, each round in the other order: what the machine does beside falls on
 * both. The ratio is the median of the rounds' ratios, so that a slow minute does not count for one side.
 */
export async function alternate(
  name: string,
  ours: Measure,
  peer: Measure,
  options: AlternateOptions = {},
): Promise<BenchRow> {
  const { rounds = 7, warmup = 1, unit = "ms", better = "less", details } = options;
  const own: number[] = [];
  const other: number[] = [];
  for (let round = -warmup; round < rounds; round++) {
    let a: number;
    let b: number;
    if (round % 2 === 0) {
      a = await ours();
      b = await peer();
    } else {
      b = await peer();
      a = await ours();
    }
    if (round < 0) continue;
    own.push(a);
    other.push(b);
  }
  return pairedRow(name, unit, own, other, { better, ...details });
}

/** A row of two lists of the same rounds. Here more is better unless said otherwise. */
export function pairedRow(
  name: string,
  unit: string,
  ours: readonly number[],
  peer: readonly number[],
  { better = "more", ...details }: { better?: "less" | "more"; [detail: string]: unknown } = {},
): BenchRow {
  const ratios = ours.map((value, i) => (better === "less" ? peer[i] / value : value / peer[i]));
  const ratio = median(ratios);
  const spread = (quantile(ratios, 0.75) - quantile(ratios, 0.25)) / 2 / ratio;
  return { name, ours: median(ours), peer: median(peer), unit, ratio, spread, rounds: ours.length, ...details };
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);

/** Linear interpolation between order statistics, as numpy.quantile. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (sorted.length - 1) * q;
  const low = Math.floor(at);
  const high = Math.min(sorted.length - 1, low + 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
}

/** Milliseconds that `fn` takes. */
export async function elapsed(fn: () => void | Promise<void>): Promise<number> {
  const start = performance.now();
  await fn();
  return performance.now() - start;
}

export function machine(): Machine {
  const build = torch.build();
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: cpus().length,
    memoryGb: Math.round(totalmem() / 2 ** 30),
    os: `${platform()} ${release()}`,
    node: process.version,
    torch: build.torch,
    cpuCapability: build.cpuCapability,
    threads: torch.getNumThreads(),
    ...(torch.cuda.isAvailable() && { device: String(torch.cuda.deviceProperties().name) }),
  };
}

/** Prints the rows as a table and writes them to the file of `--json FILE`, each with machine and versions. */
export function report(title: string, rows: readonly BenchRow[], versions: Record<string, string> = {}): void {
  const where = machine();
  console.log(`\n${title}`);
  console.log(`${where.cpu}, ${where.cores} cores, ${where.threads} threads, ${where.os}`);
  const named = Object.entries({ node: where.node, libtorch: where.torch, ...versions });
  console.log(named.map(([what, version]) => `${what} ${version}`).join(", "));
  const lines = [
    ["", "ours", "peer", "", "ratio", "spread"],
    ...rows.map((row) => [
      row.name,
      digits(row.ours),
      digits(row.peer),
      row.unit,
      `${row.ratio.toFixed(2)}x`,
      row.rounds > 1 ? `±${(100 * row.spread).toFixed(0)} %` : "once",
    ]),
  ];
  printTable(lines, [0, 3]);
  console.log("ratio above 1: ours is better");
  const { json } = benchOptions();
  if (json === undefined) return;
  const written = rows.map((row) => ({ ...row, machine: where, versions }));
  writeFileSync(json, `${JSON.stringify(written, null, 2)}\n`);
}

/** Prints lines of cells as columns, to the right but for those of `left`. */
export function printTable(lines: readonly (readonly string[])[], left: readonly number[] = [0]): void {
  const widths = lines[0].map((_, column) => Math.max(...lines.map((line) => line[column].length)));
  for (const line of lines) {
    const cells = line.map((cell, i) => (left.includes(i) ? cell.padEnd(widths[i]) : cell.padStart(widths[i])));
    console.log(cells.join("  ").trimEnd());
  }
}

function digits(value: number): string {
  if (value >= 1000) return value.toFixed(0);
  return value.toPrecision(3);
}

export interface BenchOptions {
  json?: string;
  rounds?: number;
  /** --quick: few rounds, to see that it runs. */
  quick: boolean;
  device?: string;
  /** --threads N: of operators, for both sides. */
  threads?: number;
}

/** The options that every benchmark takes. */
export function benchOptions(args: readonly string[] = process.argv.slice(2)): BenchOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      json: { type: "string" },
      rounds: { type: "string" },
      quick: { type: "boolean", default: false },
      device: { type: "string" },
      threads: { type: "string" },
    },
    strict: false,
  });
  const whole = (name: "rounds" | "threads"): number | undefined => {
    const text = values[name];
    if (typeof text !== "string") return undefined;
    const value = Number(text);
    if (!(Number.isInteger(value) && value > 0)) throw new Error(`--${name} takes a whole number above 0, got ${text}`);
    return value;
  };
  const rounds = whole("rounds");
  const threads = whole("threads");
  return {
    quick: values.quick === true,
    ...(typeof values.json === "string" && { json: values.json }),
    ...(rounds !== undefined && { rounds }),
    ...(threads !== undefined && { threads }),
    ...(typeof values.device === "string" && { device: values.device }),
  };
}
