/** What a number is counted in. */
export type MetricUnit = "nats" | "number" | "seconds" | "bytes" | "share" | "per second" | "count" | "index";

/** What the numbers are put under, where a sink has groups. */
export type MetricGroup = "train" | "diffusion" | "speed" | "memory" | "distributed";

export interface MetricFacts {
  readonly name: string;
  readonly group: MetricGroup;
  readonly unit: MetricUnit;
  /** A few words, for a heading. */
  readonly title: string;
}

const fact = (group: MetricGroup, name: string, unit: MetricUnit, title: string): MetricFacts => ({
  name,
  group,
  unit,
  title,
});

/** Every metric that a step of the library's own objectives can have. docs/metrics.md says what each one means. */
export const METRICS: readonly MetricFacts[] = [
  fact("train", "loss", "nats", "loss"),
  fact("train", "grad_norm", "number", "gradient norm"),
  fact("train", "lr", "number", "learning rate"),
  fact("diffusion", "u_max", "share", "mask-ratio cap u_max"),
  fact("diffusion", "masked_share", "share", "masked share"),
  fact("diffusion", "masked_nll", "nats", "masked cross-entropy"),
  fact("diffusion", "empty_blocks", "share", "blocks without a mask"),
  fact("diffusion", "fallback_blocks", "share", "blocks with a forced mask"),
  fact("speed", "tokens_per_second", "per second", "clean tokens a second"),
  fact("speed", "positions_per_second", "per second", "positions a second"),
  fact("speed", "mfu", "share", "model FLOPs utilisation"),
  fact("speed", "step_seconds", "seconds", "time of a step"),
  fact("speed", "data_seconds", "seconds", "waiting for data"),
  fact("memory", "rss", "bytes", "process memory"),
  fact("memory", "device_memory", "bytes", "device memory, highest"),
  fact("memory", "live_tensors", "count", "live tensors"),
  fact("distributed", "ranks", "count", "ranks"),
  fact("distributed", "communication_seconds", "seconds", "communication"),
  fact("distributed", "communication_share", "share", "share of communication"),
  fact("distributed", "step_seconds_max", "seconds", "slowest rank's own work"),
  fact("distributed", "step_seconds_min", "seconds", "fastest rank's own work"),
  fact("distributed", "slowest_rank", "index", "slowest rank"),
  fact("distributed", "straggler", "share", "straggler: slowest over median"),
];

const byName = new Map(METRICS.map((facts) => [facts.name, facts]));

/** What is known of a metric; an objective's own is a number under "train". */
export function metricFacts(name: string): MetricFacts {
  return byName.get(name) ?? fact("train", name, "number", name.replaceAll("_", " "));
}

/** A metric's name below its group, such as "speed/mfu". A name that has a group already stays. */
export function groupedName(name: string): string {
  return name.includes("/") ? name : `${metricFacts(name).group}/${name}`;
}
