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
