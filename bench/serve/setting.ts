import type { Engine, GenerateOptions } from "stable-diffcoder/engine";
import type { BenchModel } from "./models.js";
import type { ServeBenchOptions, Weights } from "./options.js";
import type { Commit, ServePeer } from "./peer.js";
import { CHAT_LENGTHS, type LengthShape, scaled } from "./workload.js";

/** What a part gets: a model, the peer that has loaded it, and how to measure. */
export interface Setting {
  options: ServeBenchOptions;
  model: BenchModel;
  peer: ServePeer;
  /** Of the peer's weights. */
  peerDtype: string;
  /** Prompt of "batch1" and of the checks. */
  prompt: number[];
  threshold: number;
  scale: Scale;
  progress: (text: string) => void;
}

/** How much is measured of a model, by its size: a part of minutes at most. */
export interface Scale {
  /** Tokens of a text of "batch1". */
  tokens: number;
  rounds: number;
  levels: readonly number[];
  /** Shortest window, in seconds. */
  window: number;
  lengths: LengthShape;
  concurrency: readonly number[];
  /** Arrivals as shares of the saturated rate, and for how many seconds they come. */
  rates: readonly number[];
  arrivals: number;
}

const LARGE = 50e6;

export function scaleOf({ parameters, context }: BenchModel, { quick, rounds }: ServeBenchOptions): Scale {
  const large = parameters > LARGE;
  // Half the context each, so that prompt and answer always fit.
  const fitting = ({ most, ...rest }: LengthShape): LengthShape => ({ ...rest, most: Math.min(most, context >> 2) });
  if (quick) {
    return {
      tokens: large ? 8 : 24,
      rounds: rounds ?? 1,
      levels: [1, 8, 32],
      window: 1,
      lengths: fitting(scaled(CHAT_LENGTHS, 1 / 8)),
      concurrency: [1, 8],
      rates: [0.7],
      arrivals: 2,
    };
  }
  return {
    tokens: large ? 32 : 128,
    rounds: rounds ?? (large ? 3 : 5),
    levels: [1, 2, 4, 8, 16, 32, 64],
    window: large ? 3 : 2,
    lengths: fitting(scaled(CHAT_LENGTHS, large ? 1 / 8 : 1 / 2)),
    concurrency: [1, 8, 32],
    rates: [0.5, 0.7, 0.9],
    arrivals: large ? 12 : 8,
  };
}

/** Two tokens a pass by the schedule, or the threshold. */
export function loadCommit({ options, threshold }: Setting): Commit {
  return options.commit === "threshold" ? { threshold } : { steps: Math.max(1, options.blockSize >> 1) };
}

export function commitOptions(commit: Commit): GenerateOptions {
  return "steps" in commit
    ? { commit: { rule: "static", steps: commit.steps } }
    : { commit: { rule: "threshold", value: commit.threshold } };
}

export function describeCommit(commit: Commit): string {
  if ("threshold" in commit) return `threshold ${commit.threshold}`;
  return `${commit.steps} step${commit.steps === 1 ? "" : "s"} a block`;
}

/** Enough memory for the largest level: nothing here is about pre-emption. */
export const CACHE_TOKENS = 49_152;

/** Options of {@link Engine.create}; "int8" quantises the float32 weights. */
export function engineOptions(
  { options: { device, threads, blockSize }, model }: Setting,
  weights: Weights,
): Parameters<typeof Engine.create>[0] {
  return {
    model: model.folder,
    device,
    threads,
    blockSize,
    dtype: weights === "int8" ? "float32" : weights,
    quantization: weights === "int8" ? "int8" : undefined,
  };
}
