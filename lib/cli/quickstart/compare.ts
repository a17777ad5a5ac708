import { gzipSync } from "node:zlib";
import type { StableDiffCoder } from "../../checkpoint/index.js";
import { type Batch, collate, type PackedDataset, type PreparedData } from "../../data/index.js";
import { arBitsPerByte, diffusionBound, type Likelihood } from "../../diffusion/index.js";
import type { Tokenizer } from "../../tokenizer/index.js";
import { resolvePrecision } from "../../train/index.js";
import { BLOCK_SIZE } from "./curriculum.js";

/** Held-out text that models and gzip are measured on. */
export interface HeldOutText {
  batches: Batch[];
  text: string;
  bytes: number;
}

/** Consecutive rows of a passage, which are evaluated as one batch. */
const ROWS = 8;

/** Passages spread over the held-out text, so that every language has its share, of `maxTokens` tokens at most. */
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

/** Exact bits per byte of a model read left to right. */
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
