/**
 * The metrics of one optimizer step. Losses, norms, shares and rates are over all ranks, times and memory are of rank
 * 0, unless noted otherwise; docs/metrics.md lists them all. A metric that does not apply, or a loss or norm that is
 * not finite, is absent. The metrics of a custom objective are included under their names.
 */
export type StepMetrics = Readonly<Record<string, number>> & KnownMetrics;

/** The metrics of the trainer and of the built-in objectives. */
export interface KnownMetrics {
  /** Loss per unit of the objective's normalizer, in nats. */
  readonly loss?: number;
  /** L2 norm of the gradient of the whole step, before clipping. */
  readonly grad_norm?: number;
  /** Learning rate of the step. */
  readonly lr?: number;
  /** Upper bound of the mask ratio during its warmup (Eq. 10); 1 after the warmup. */
  readonly u_max?: number;
  /** Share of the maskable tokens that are masked, from 0 to 1. */
  readonly masked_share?: number;
  /** Unweighted cross-entropy per masked token, in nats. */
  readonly masked_nll?: number;
  /** Share of blocks in which the noise masked nothing. */
  readonly empty_blocks?: number;
  /** Share of blocks in which one mask was forced because the noise had masked nothing (section 3.3). */
  readonly fallback_blocks?: number;
  /** Clean tokens per second. */
  readonly tokens_per_second?: number;
  /** Positions computed per second; block diffusion computes two per clean token. */
  readonly positions_per_second?: number;
  /** Model FLOPs utilization: share of the device's peak, if the peak is known. */
  readonly mfu?: number;
  /** Seconds from the step's batch to its update. */
  readonly step_seconds?: number;
  /** Seconds of the step spent waiting for the batch. */
  readonly data_seconds?: number;
  /** Resident set size of the process, in bytes. */
  readonly rss?: number;
  /** Peak bytes of tensors on the GPU so far. */
  readonly device_memory?: number;
  /** Tensors alive after the step. */
  readonly live_tensors?: number;
  /** Number of processes. This and the following metrics exist only in a run of several processes. */
  readonly ranks?: number;
  /** Seconds that rank 0 spent waiting for other processes. */
  readonly communication_seconds?: number;
  /** `communication_seconds` as a share of the step. */
  readonly communication_share?: number;
  /** Seconds of the slowest rank's own work, without waiting for others. */
  readonly step_seconds_max?: number;
  /** Seconds of the fastest rank's own work. */
  readonly step_seconds_min?: number;
  /** Index of the slowest rank. */
  readonly slowest_rank?: number;
  /** Own work of the slowest rank divided by the median, minus 1. */
  readonly straggler?: number;
}

/** Unit of a metric. */
export type MetricUnit = "nats" | "number" | "seconds" | "bytes" | "share" | "per second" | "count" | "index";

/** Group of a metric, for sinks that have groups. */
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

/** Every metric that a step of the built-in objectives can have. docs/metrics.md explains each one. */
export const METRICS: readonly MetricInfo[] = Object.entries(FACTS).map(([name, facts]) => ({ name, ...facts }));

const byName = new Map(METRICS.map((facts) => [facts.name, facts]));

/** Title, unit and group of a metric; a custom objective's metric is a number in the group "train". */
export function metricInfo(name: string): MetricInfo {
  return byName.get(name) ?? { name, ...fact("train", "number", name.replaceAll("_", " ")) };
}

/** A metric's name with its group, such as "speed/mfu". A name that already contains a group is unchanged. */
export function groupedName(name: string): string {
  return name.includes("/") ? name : `${metricInfo(name).group}/${name}`;
}

/** The names that {@link Meter} computes; an objective's metric cannot use them. */
export const OWN_METRICS: ReadonlySet<string> = new Set([
  ...["loss", "grad_norm", "lr", "step_seconds", "data_seconds", "tokens_per_second", "positions_per_second", "mfu"],
  ...["live_tensors", "rss", "device_memory", "ranks", "communication_seconds", "communication_share"],
  ...["step_seconds_min", "step_seconds_max", "slowest_rank", "straggler"],
]);
