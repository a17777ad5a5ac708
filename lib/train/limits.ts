/**
 * Largest sizes that a stage takes. Beyond what any run was ever made with, and small enough that what is computed from
 * them fits memory and exact numbers: a slip of the finger is an error, not a machine without memory.
 */
export const LIMITS = {
  /** Sequences of a step. */
  globalBatchSize: 2 ** 20,
  /** Micro-batches of a step. */
  gradientAccumulationSteps: 2 ** 16,
  /** Optimiser steps of a stage. */
  steps: 2 ** 31 - 1,
  /** Tokens of a sequence. */
  seqLen: 2 ** 24,
  /** Tokens of one micro-batch of one process. */
  microBatchTokens: 2 ** 27,
  /** Of a stage: a century. */
  minutes: 100 * 366 * 24 * 60,
} as const;
