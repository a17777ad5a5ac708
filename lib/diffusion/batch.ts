import * as z from "zod";
import type { DecoderConfig } from "../model/config.js";
import type { Batch } from "../model/objective.js";
import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { DiffusionError } from "./errors.js";

/** Options of every objective: how a batch is computed. */
export const batchOptions = {
  crossDocumentAttention: z
    .boolean()
    .optional()
    .describe(
      "whether the documents of a sample attend to each other; default: only if the data keep no document boundaries",
    ),
  headChunkSize: z.number().int().min(1).default(1024).describe("number of rows whose logits are in memory at once"),
};

/** Throws DiffusionError DIFFUSION_BATCH if the fields of a batch are inconsistent. */
export function checkBatch(batch: Batch): void {
  const { batch: rows, seqLen, tokens, indices, documents, lossMask } = batch;
  const total = rows * seqLen;
  if (tokens.length !== total) fail(`tokens has ${tokens.length} ids, but batch * length is ${rows} * ${seqLen}`);
  if (indices.length !== rows) fail(`indices has ${indices.length} entries for ${rows} rows`);
  if (lossMask && lossMask.length !== total) fail(`lossMask has ${lossMask.length} entries for ${total} tokens`);
  if (!documents) return;
  if (documents[0] !== 0 || documents.at(-1) !== total) fail(`documents must run from 0 to ${total}`);
  let rowStarts = 0;
  for (let d = 0; d < documents.length; d++) {
    if (d > 0 && documents[d] <= documents[d - 1])
      fail(`documents must be increasing, got ${documents[d]} at index ${d}`);
    if (documents[d] % seqLen === 0) rowStarts++;
  }
  if (rowStarts !== rows + 1) fail("documents must include the start of every row");
}

/** The documents of one row as positions within it: starts, then `length`. */
export function documentsOfRow(batch: Batch, row: number): number[] {
  const { documents, seqLen } = batch;
  if (!documents) return [0, seqLen];
  const base = row * seqLen;
  const inRow = documents.slice(lowerBound(documents, base), lowerBound(documents, base + seqLen));
  return [...inRow.map((at) => at - base), seqLen];
}

/** Flags [batch * length] with 1 at the first token of every document. */
export function documentStarts(batch: Batch): Uint8Array {
  const starts = new Uint8Array(batch.tokens.length);
  for (let row = 0; row < batch.batch; row++) starts[row * batch.seqLen] = 1;
  for (const start of batch.documents?.slice(0, -1) ?? []) starts[start] = 1;
  return starts;
}

/**
 * Flat indices of the tokens that may be masked, by row and block; blocks without such tokens are left out.
 *
 * @param keepFirst whether the first token of a document is never masked
 */
export function maskableBlocks(batch: Batch, blockSize: number, keepFirst: boolean): number[][][] {
  const { lossMask, seqLen } = batch;
  return batch.indices.map((_, row) => {
    const documents = documentsOfRow(batch, row);
    const blocks: number[][] = [];
    for (let d = 0; d + 1 < documents.length; d++) {
      for (let start = documents[d]; start < documents[d + 1]; start += blockSize) {
        const block: number[] = [];
        for (let i = start; i < Math.min(start + blockSize, documents[d + 1]); i++) {
          const at = row * seqLen + i;
          if ((!lossMask || lossMask[at]) && !(keepFirst && i === documents[d])) block.push(at);
        }
        if (block.length > 0) blocks.push(block);
      }
    }
    return blocks;
  });
}

function lowerBound(sorted: readonly number[], value: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

function fail(message: string): never {
  throw new DiffusionError("DIFFUSION_BATCH", message);
}

/**
 * The id of the mask token: `given`, else the model's.
 *
 * @throws DiffusionError DIFFUSION_OPTIONS if there is none or it is outside the vocabulary
 */
export function resolveMaskId(config: Pick<DecoderConfig, "maskTokenId" | "vocabSize">, given?: number): number {
  const id = given ?? config.maskTokenId;
  if (id === null) {
    throw new DiffusionError(
      "DIFFUSION_OPTIONS",
      "the model has no mask token: give maskId, or set maskTokenId in the model's config",
    );
  }
  if (!Number.isInteger(id) || id < 0 || id >= config.vocabSize) {
    throw new DiffusionError("DIFFUSION_OPTIONS", `maskId ${id} is outside the vocabulary of ${config.vocabSize}`);
  }
  return id;
}

/**
 * Copies several integer arrays to a device in one transfer.
 *
 * @returns one flat int64 tensor per array, views of one storage
 */
export function uploadIntegers(arrays: readonly Int32Array[], device: string): Tensor[] {
  const lengths = arrays.map((array) => array.length);
  const packed = new Int32Array(lengths.reduce((sum, length) => sum + length, 0));
  let at = 0;
  for (const array of arrays) {
    packed.set(array, at);
    at += array.length;
  }
  // int32 halves the transfer; embedding and index operators need int64.
  return torch.tensor(packed, placement(device)).to({ dtype: "int64" }).split(lengths) as Tensor[];
}

/** Copies a float32 array to a device, [array.length]. */
export function uploadFloats(array: Float32Array, device: string): Tensor {
  return torch.tensor(array, placement(device));
}

// A copy from page-locked memory does not wait for the device's queue.
function placement(device: string): { device: string; pinMemory: boolean } {
  return { device, pinMemory: device.startsWith("cuda") };
}

/**
 * Number of rows that the last layer and the head compute for `count` masked tokens: a power of two up to 128, then a
 * multiple of 128. The count differs in each step, and matrix-product libraries compile and keep a kernel for each new
 * shape.
 *
 * @returns at least `count`; the caller gives the additional rows weight 0
 */
export function paddedRows(count: number): number {
  return count <= 128 ? 2 ** Math.ceil(Math.log2(Math.max(1, count))) : Math.ceil(count / 128) * 128;
}
