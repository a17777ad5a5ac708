import { gzipSync } from "node:zlib";
import { StableDiffCoder } from "../../checkpoint/index.js";
import { type Batch, collate, type PackedDataset, type PreparedData } from "../../data/index.js";
import { arBitsPerByte, diffusionBound, type Likelihood } from "../../diffusion/index.js";
import type { Tokenizer } from "../../tokenizer/index.js";
import { Curriculum, resolvePrecision } from "../../train/index.js";
import { BLOCK_SIZE, quickstartStages } from "./curriculum.js";

/** Held-out text on which models and gzip are evaluated. */
export interface HeldOutText {
  batches: Batch[];
  text: string;
  bytes: number;
}

/** Number of consecutive rows of a passage, which form one batch. */
const ROWS = 8;

/** Passages spread over the held-out text, so that every language is represented, with at most `maxTokens` tokens. */
export function heldOutText(data: PreparedData, tokenizer: Tokenizer, maxTokens: number): HeldOutText {
  const heldOut = data.heldOut as PackedDataset;
  const available = Math.ceil(heldOut.numSamples / ROWS);
  const count = Math.min(available, Math.max(1, Math.floor(maxTokens / (ROWS * heldOut.seqLen))));
  const batches = Array.from({ length: count }, (_, passage) => {
    const first = Math.floor((passage * available) / count) * ROWS;
    const samples = Array.from({ length: Math.min(ROWS, heldOut.numSamples - first) }, (_, row) => first + row);
    return collate(heldOut, samples, samples);
  });
  const ids = batches.flatMap((batch) => Array.from(batch.tokens));
  const text = tokenizer.decode(ids, { skipSpecialTokens: true });
  return { batches, text, bytes: Buffer.byteLength(text) };
}

/** gzip -9 on the same text, in bits per byte. */
export function gzipBitsPerByte({ text, bytes }: HeldOutText): number {
  return (gzipSync(text, { level: 9 }).length * 8) / bytes;
}

interface Options {
  signal: AbortSignal;
}

function likelihoodOptions(coder: StableDiffCoder, { signal }: Options) {
  const lengths = coder.tokenizer.byteLengths();
  const bf16 = resolvePrecision("auto", coder.device) === "bfloat16";
  return {
    byteLength: (id: number) => lengths[id] ?? 0,
    device: coder.device,
    ...(bf16 && { autocast: "bfloat16" as const }),
    signal,
  };
}

/** Exact bits per byte of a model as an autoregressive one. */
export function autoregressive(
  coder: StableDiffCoder,
  { batches }: HeldOutText,
  options: Options,
): Promise<Likelihood> {
  return arBitsPerByte(coder.model, batches, likelihoodOptions(coder, options));
}

/** Upper bound of the bits per byte under block diffusion, with the unclipped schedule. */
export function bound(coder: StableDiffCoder, { batches }: HeldOutText, options: Options): Promise<Likelihood> {
  return diffusionBound(coder.model, batches, {
    ...likelihoodOptions(coder, options),
    blockSize: BLOCK_SIZE,
    mcSamples: 4,
  });
}

const WARM = 2; // the first steps also allocate and, in bfloat16, pack weights
const TIMED = 4;

/**
 * Measures the seconds of one AR and one diffusion step on this machine, with a temporary model. The numbers of steps
 * are derived from them, so that schedules have a fixed end and a run can be repeated with the printed steps.
 */
export async function calibrate(
  data: PreparedData,
  tokenizer: Tokenizer,
  options: { device: string; signal: AbortSignal },
): Promise<{ ar: number; diffusion: number }> {
  const steps = { compress: WARM + TIMED, cpt: WARM + TIMED, anneal: 1 };
  using coder = StableDiffCoder.fromConfig("tiny", { tokenizer });
  const seconds: Record<string, number[]> = { compress: [], cpt: [], anneal: [] };
  let before = performance.now();
  for await (const event of new Curriculum(quickstartStages(data, steps)).run({ model: coder, ...options })) {
    const now = performance.now();
    if (event.type === "step" && event.step > WARM) seconds[event.name].push((now - before) / 1000);
    before = performance.now();
  }
  options.signal.throwIfAborted();
  return { ar: median(seconds.compress), diffusion: median(seconds.cpt) };
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

/** The beginning of a held-out document. */
export interface Prompt {
  document: string;
  ids: number[];
}

const MIN_TOKENS = 40;
const MAX_TOKENS = 96;

/**
 * The beginnings of `count` documents, one from each of `count` equal parts of the held-out text, each ending after a
 * line.
 */
export function heldOutPrompts(data: PreparedData, tokenizer: Tokenizer, count: number): Prompt[] {
  const { heldOut } = data.store;
  const prompts: Prompt[] = [];
  for (let part = 0; part < count; part++) {
    const middle = heldOut.documentAt(Math.floor(((part + 0.5) * heldOut.numTokens) / count));
    for (let i = middle; i < heldOut.numDocuments; i++) {
      const document = heldOut.documentName(i) ?? `document ${i}`;
      if (prompts.some((prompt) => prompt.document === document)) continue;
      const ids = cutAfterLine(Array.from(heldOut.document(i)), tokenizer);
      if (ids === undefined) continue;
      prompts.push({ document, ids });
      break;
    }
  }
  return prompts;
}

function cutAfterLine(ids: number[], tokenizer: Tokenizer): number[] | undefined {
  if (ids.length < 2 * MAX_TOKENS) return undefined;
  for (let end = MIN_TOKENS; end <= MAX_TOKENS; end++) {
    if (tokenizer.decode([ids[end - 1]]).includes("\n")) return ids.slice(0, end);
  }
  return ids.slice(0, MAX_TOKENS);
}
