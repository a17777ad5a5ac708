/**
 * The numbers of one optimiser step. Losses, norms, shares and rates are of all ranks together, times and memory of
 * rank 0, unless said otherwise; docs/metrics.md has them all. A number that does not apply, or a loss or norm that is
 * not finite, is absent. An objective's own metrics are among them by their names.
 */
export type StepMetrics = Readonly<Record<string, number>> & KnownMetrics;

/** The metrics of the library's own objectives and of the trainer. */
export interface KnownMetrics {
  /** Nats: the objective's loss for each unit of its normaliser. */
  readonly loss?: number;
  /** L2 norm of the step's whole gradient, before clipping. */
  readonly grad_norm?: number;
  /** Learning rate of the step. */
  readonly lr?: number;
  /** Highest mask ratio that the warmup allows (Eq. 10); 1 when the warmup is over. */
  readonly u_max?: number;
  /** Masked tokens among those that may be masked, 0 to 1. */
  readonly masked_share?: number;
  /** Nats: cross-entropy of a masked token, unweighted. */
  readonly masked_nll?: number;
  /** Share of blocks in which the noise masked nothing. */
  readonly empty_blocks?: number;
  /** Share of blocks that got one mask because they would have had none (section 3.3). */
  readonly fallback_blocks?: number;
  /** Clean tokens a second. */
  readonly tokens_per_second?: number;
  /** Positions computed a second: for block diffusion two for each clean token. */
  readonly positions_per_second?: number;
  /** Model FLOPs utilisation: share of the device's peak, where that is known. */
  readonly mfu?: number;
  /** Seconds from the step's batch to its update. */
  readonly step_seconds?: number;
  /** Seconds of it that waited for the batch. */
  readonly data_seconds?: number;
  /** Bytes that the process holds. */
  readonly rss?: number;
  /** Bytes of tensors on the GPU, highest so far. */
  readonly device_memory?: number;
  /** Tensors alive after the step. */
  readonly live_tensors?: number;
  /** Processes that train together; this and what follows only where they are several. */
  readonly ranks?: number;
  /** Seconds that rank 0 waited for other processes. */
  readonly communication_seconds?: number;
  /** The same as a share of the step. */
  readonly communication_share?: number;
  /** Seconds of own work of the slowest rank, without waiting for others. */
  readonly step_seconds_max?: number;
  /** The same of the fastest rank. */
  readonly step_seconds_min?: number;
  /** Which rank was the slowest. */
  readonly slowest_rank?: number;
  /** Own work of the slowest rank over the median, less 1. */
  readonly straggler?: number;
}

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

/** The names that {@link Meter} gives: no objective's metric may take one's place. */
export const OWN_METRICS: ReadonlySet<string> = new Set([
  ...["loss", "grad_norm", "lr", "step_seconds", "data_seconds", "tokens_per_second", "positions_per_second", "mfu"],
  ...["live_tensors", "rss", "device_memory", "ranks", "communication_seconds", "communication_share"],
  ...["step_seconds_min", "step_seconds_max", "slowest_rank", "straggler"],
]);
