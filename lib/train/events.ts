import type { StepMetrics } from "./metrics.js";

/** One stage as a run means to go through it. */
export interface StageInfo {
  name: string;
  /** What the stage was made by: "autoregressive", or an objective's own name. */
  kind: string;
  /** Optimiser steps; null while a stage that ends by the clock does not know yet. */
  steps: number | null;
  /** Sequences a step, and tokens of each. */
  globalBatchSize: number;
  seqLen: number;
  /** Positions computed for each clean token. */
  positionsPerToken: number;
}

/** The mesh of a run with several ranks: how many parts each dimension has. */
export interface MeshInfo {
  replicate: number;
  shard: number;
  context: number;
  tensor: number;
  worldSize: number;
  /** "gloo" or "nccl". */
  backend: string;
}

/** What one rank tells of a step. */
export interface RankStats {
  rank: number;
  /** Of its step, and those of them that it waited for data. */
  seconds: number;
  dataSeconds: number;
  /** Bytes that the process holds. */
  rss: number;
}

/** What a run is: told once at its start. */
export interface RunInfo {
  /** The run's folder, if it has one. */
  outputDir?: string;
  parameters: number;
  /** e.g. "4 layers of 256, 4 heads, vocabulary 4096". */
  model: string;
  device: string;
  /** How the model and its batches lie over processes; absent in a process of its own. */
  parallel?: MeshInfo;
  seed: number;
  stages: StageInfo[];
  versions: Record<string, string>;
  /** ISO 8601. */
  startedAt: string;
}

/** Where a run stands. */
export interface Position {
  /** Index and name of the stage. */
  stage: number;
  name: string;
  /** Optimiser steps done in the stage, and in the whole run. */
  step: number;
  globalStep: number;
}

/** A text that a model wrote while it was trained. */
export interface TrainingSample {
  /** Given to the model; shown apart. */
  prompt?: string;
  text: string;
  /** Anything worth a line: forwards, tokens, seconds. */
  note?: string;
}

/** Why a step changed nothing. */
export type SkipCause = "not finite" | "no targets";

/** The run begins, or goes on from a checkpoint. */
export interface RunStartEvent {
  type: "start";
  globalStep: number;
  run: RunInfo;
  resumed?: Position & { checkpoint: string };
}

export interface StageStartEvent extends Position {
  type: "stage-start";
  info: StageInfo;
}

/** One optimiser step was done, or skipped. */
export interface StepEvent extends Position {
  type: "step";
  /** Steps of the stage; an estimate where it ends by the clock. */
  steps: number;
  /** Clean tokens of the whole run. */
  tokens: number;
  /** Seconds of training of the whole run, over all its processes. */
  elapsed: number;
  /** The numbers of the step; the objective's own are among them. */
  metrics: StepMetrics;
  /** Where several ranks train: what each of them tells of the step. */
  perRank?: RankStats[];
  skipped?: SkipCause;
}

export interface EvaluationEvent extends Position {
  type: "evaluation";
  metrics: Record<string, number>;
}

export interface SampleEvent extends Position {
  type: "sample";
  samples: TrainingSample[];
}

export interface CheckpointEvent extends Position {
  type: "checkpoint";
  checkpoint: string;
  path: string;
  seconds: number;
}

/** Something went wrong that does not end the run. */
export interface WarningEvent {
  type: "warning";
  globalStep: number;
  code: "CHECKPOINT_CORRUPT" | "CHECKPOINT_WRITE" | "DATA" | "RUN_FOLDER" | "SINK" | "STAGE" | "STEP_SKIPPED";
  message: string;
}

export interface StageEndEvent extends Position {
  type: "stage-end";
  seconds: number;
  tokens: number;
}

/** Ended by the signal; the state is saved where there is a folder. */
export interface AbortedEvent extends Position {
  type: "aborted";
  checkpoint?: string;
}

export interface RunDoneEvent {
  type: "done";
  globalStep: number;
  tokens: number;
  elapsed: number;
}

/** Goes to sinks only: whoever iterates over the run gets the error itself. */
export interface FailedEvent {
  type: "failed";
  globalStep: number;
  message: string;
}

/** What a run tells of itself. `type` decides. */
export type TrainEvent =
  | RunStartEvent
  | StageStartEvent
  | StepEvent
  | EvaluationEvent
  | SampleEvent
  | CheckpointEvent
  | WarningEvent
  | StageEndEvent
  | AbortedEvent
  | RunDoneEvent;
