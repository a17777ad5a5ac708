import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { StableDiffCoder } from "../../lib/checkpoint/index.js";
import type { Batch, ObjectiveContext } from "../../lib/diffusion/index.js";
import type { Decoder } from "../../lib/model/index.js";
import * as torch from "../../lib/torch/index.js";

torch.setNumThreads(1); // the tensors are tiny, and test files run side by side

export const fixturePath = (path: string): string => fileURLToPath(new URL(`../fixtures/${path}`, import.meta.url));
export const MASK = 5;

/**
 * A tiny Llama of 2 layers with end token 2. "diffusion": sharp predictions, vocabulary 48, hidden size 24, mask token 5.
 * "diffusion/mild": mild ones, whose gradients float32 holds to 1e-5; vocabulary 32, hidden size 16.
 */
export async function tinyModel(name = "diffusion", dtype: "float32" | "float64" = "float32"): Promise<Decoder> {
  return (await StableDiffCoder.fromPretrained(fixturePath(name), { dtype })).model;
}

export function readJson<T>(name: string): T {
  return JSON.parse(readFileSync(fixturePath(`diffusion/${name}.json`), "utf8")) as T;
}

/** What transformers decodes from the tiny model without a cache. */
export interface SamplerCase {
  prompt: number[];
  maxTokens: number;
  size: number;
  steps?: number;
  threshold?: number;
  shift?: boolean;
  tokens: number[];
  commits: number[][];
  stop: number[];
  stopped: number[];
  stoppedForwards: number;
  stopId: number;
  autoregressive: number[];
}

export const samplerCases = readJson<SamplerCase[]>("sampler").map((c) => {
  const rule = c.threshold === undefined ? `steps ${c.steps ?? "all"}` : `threshold ${c.threshold}`;
  return { ...c, name: `B ${c.size}, ${rule}${c.shift ? ", shift" : ""}` };
});

export function context(more: Partial<ObjectiveContext> = {}): ObjectiveContext {
  return { seed: 1, stage: 0, step: 0, steps: 1, device: "cpu", state: {}, ...more };
}

/** Rows of pseudo-random ids from 6 to 31, the same for the same index. */
export function randomBatch(indices: number[], length: number, more: Partial<Batch> = {}): Batch {
  const tokens = new Int32Array(indices.length * length);
  indices.forEach((index, row) => {
    const random = new torch.Philox(99, index);
    for (let i = 0; i < length; i++) tokens[row * length + i] = 6 + random.below(26);
  });
  return { indices, tokens, batch: indices.length, seqLen: length, ...more };
}

/** The largest difference, relative to the largest expected value or 1. */
export function worstError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.POSITIVE_INFINITY;
  let error = 0;
  let scale = 1;
  for (let i = 0; i < expected.length; i++) {
    error = Math.max(error, Math.abs(actual[i] - expected[i]));
    scale = Math.max(scale, Math.abs(expected[i]));
    if (Number.isNaN(actual[i])) return Number.POSITIVE_INFINITY;
  }
  return error / scale;
}
