import { compact, duration, number } from "../../train/format.js";
import { METRICS, metricInfo } from "../../train/metrics.js";
import type { ReportState } from "../../train/sinks/report-data.js";
import type { ChartPoint } from "./chart.js";

/** Windows of smoothing, as shares of a stage; the keys select one. */
export const SMOOTHING = [0, 0.025, 0.1] as const;

/** Names of all metrics that a run has, in the order of the docs; evaluations last, as "evaluation/NAME". */
export function metricNames(report: ReportState): string[] {
  const found = new Set(report.rows.flatMap(({ mean }) => Object.keys(mean)));
  const known = METRICS.map(({ name }) => name).filter((name) => found.has(name));
  const own = [...found].filter((name) => !known.includes(name));
  const evaluated = new Set(report.evaluations.flatMap(({ metrics }) => Object.keys(metrics)));
  return [...known, ...own, ...[...evaluated].map((name) => `evaluation/${name}`)];
}

/** A metric over the steps of a run. */
export function pointsOf(report: ReportState, name: string): ChartPoint[] {
  const evaluated = /^evaluation\/(.*)$/.exec(name)?.[1];
  if (evaluated !== undefined) {
    return report.evaluations.flatMap(({ step, stage, metrics }) =>
      metrics[evaluated] === undefined ? [] : [{ x: step, y: metrics[evaluated], group: stage }],
    );
  }
  return report.rows.flatMap(({ step, stage, mean }) =>
    mean[name] === undefined ? [] : [{ x: step, y: mean[name], group: stage }],
  );
}

/** Exponential moving averages that start over with each group, over a share of its points. */
export function smoothed(points: readonly ChartPoint[], share: number): ChartPoint[] {
  const sizes = new Map<number, number>();
  for (const { group } of points) sizes.set(group, (sizes.get(group) ?? 0) + 1);
  let group: number | undefined;
  let mean = 0;
  let weight = 0;
  return points.map((point) => {
    if (point.group !== group) {
      group = point.group;
      mean = 0;
      weight = 0;
    }
    const decay = 1 - 1 / Math.max(1, share * (sizes.get(point.group) as number));
    mean = decay * mean + (1 - decay) * point.y;
    weight = decay * weight + (1 - decay);
    return { ...point, y: mean / weight };
  });
}

/** A value with its unit, in few characters. */
export function formatMetric(name: string, value: number): string {
  switch (metricInfo(name).unit) {
    case "share":
      return name === "u_max" ? number(value) : `${Number((100 * value).toPrecision(3))} %`;
    case "bytes":
      return bytes(value);
    case "seconds":
      return seconds(value);
    case "per second":
      return `${compact(value)}/s`;
    case "count":
    case "index":
      return compact(value);
    default:
      return number(value);
  }
}

export function bytes(value: number): string {
  for (const [size, unit] of [
    [2 ** 40, "TiB"],
    [2 ** 30, "GiB"],
    [2 ** 20, "MiB"],
    [2 ** 10, "KiB"],
  ] as const) {
    if (value >= size) return `${Number((value / size).toPrecision(3))} ${unit}`;
  }
  return `${value} B`;
}

export function seconds(value: number): string {
  if (value >= 100) return duration(value);
  if (value >= 1) return `${Number(value.toPrecision(3))} s`;
  if (value >= 1e-4 || value === 0) return `${Number((1000 * value).toPrecision(3))} ms`;
  return `${Number((1e6 * value).toPrecision(3))} µs`;
}
