import type { KnownMetrics } from "../step-metrics.js";

/** What a number is counted in. */
export type MetricUnit = "nats" | "number" | "seconds" | "bytes" | "share" | "per second" | "count" | "index";

/** What the numbers are put under, where a sink has groups. */
export type MetricGroup = "train" | "diffusion" | "speed" | "memory" | "distributed";

export interface MetricInfo {
  readonly name: string;
  readonly group: MetricGroup;
  readonly unit: MetricUnit;
  /** A few words, for a heading. */
  readonly title: string;
}

const fact = (group: MetricGroup, unit: MetricUnit, title: string) => ({ group, unit, title });

const FACTS: Readonly<Record<keyof KnownMetrics, Omit<MetricInfo, "name">>> = {
  loss: fact("train", "nats", "loss"),
  grad_norm: fact("train", "number", "gradient norm"),
  lr: fact("train", "number", "learning rate"),
  u_max: fact("diffusion", "share", "mask-ratio cap u_max"),
  masked_share: fact("diffusion", "share", "masked share"),
  masked_nll: fact("diffusion", "nats", "masked cross-entropy"),
  empty_blocks: fact("diffusion", "share", "blocks without a mask"),
  fallback_blocks: fact("diffusion", "share", "blocks with a forced mask"),
  tokens_per_second: fact("speed", "per second", "clean tokens a second"),
  positions_per_second: fact("speed", "per second", "positions a second"),
  mfu: fact("speed", "share", "model FLOPs utilisation"),
  step_seconds: fact("speed", "seconds", "time of a step"),
  data_seconds: fact("speed", "seconds", "waiting for data"),
  rss: fact("memory", "bytes", "process memory"),
  device_memory: fact("memory", "bytes", "device memory, highest"),
  live_tensors: fact("memory", "count", "live tensors"),
  ranks: fact("distributed", "count", "ranks"),
  communication_seconds: fact("distributed", "seconds", "communication"),
  communication_share: fact("distributed", "share", "share of communication"),
  step_seconds_max: fact("distributed", "seconds", "slowest rank's own work"),
  step_seconds_min: fact("distributed", "seconds", "fastest rank's own work"),
  slowest_rank: fact("distributed", "index", "slowest rank"),
  straggler: fact("distributed", "share", "straggler: slowest over median"),
};

/** Every metric that a step of the library's own objectives can have. docs/metrics.md says what each one means. */
export const METRICS: readonly MetricInfo[] = Object.entries(FACTS).map(([name, facts]) => ({ name, ...facts }));

const byName = new Map(METRICS.map((facts) => [facts.name, facts]));

/** What is known of a metric; an objective's own is a number under "train". */
export function metricInfo(name: string): MetricInfo {
  return byName.get(name) ?? { name, ...fact("train", "number", name.replaceAll("_", " ")) };
}

/** A metric's name below its group, such as "speed/mfu". A name that has a group already stays. */
export function groupedName(name: string): string {
  return name.includes("/") ? name : `${metricInfo(name).group}/${name}`;
}
