import { inspect } from "node:util";
import type { Batch } from "../model/index.js";
import { TrainError } from "./errors.js";

/** A sample of clean text that holds the token which stands for noise. */
export interface MaskFound {
  sample: number | null;
  count: number;
  maskId: number;
}

/**
 * Looks at the tokens of a batch before the model does: on a GPU an id outside the vocabulary ends the process.
 *
 * @param where named in the message, e.g. "stage 'cpt', step 7"
 * @returns the first row with mask tokens among its clean ones
 * @throws TrainError TRAIN_DATA naming sample, position and id
 */
export function checkTokens(
  where: string,
  batch: Batch,
  { vocabSize, maskId }: { vocabSize: number; maskId: number | undefined },
): MaskFound | undefined {
  const fail = (what: string) => new TrainError("TRAIN_DATA", `${where}: ${what}`);
  const { tokens, batch: rows, seqLen } = batch ?? {};
  if (!(tokens instanceof Int32Array) || tokens.length !== rows * seqLen) {
    throw fail(`the loader gave ${inspect(batch, { depth: 0 }).slice(0, 80)}, expected a batch`);
  }
  let found: MaskFound | undefined;
  for (let i = 0; i < tokens.length; i++) {
    const id = tokens[i];
    if (id >= 0 && id < vocabSize && id !== maskId) continue;
    const row = Math.floor(i / seqLen);
    const sample = batch.samples?.[row] ?? null;
    if (id !== maskId) {
      const place = `${sample === null ? `row ${row} of the batch` : `sample ${sample}`} has the token id ${id} at ${i % seqLen}`;
      throw fail(
        `${place}, the model's vocabulary ends at ${vocabSize - 1}. Were these tokens made by another tokenizer?`,
      );
    }
    found ??= { sample, count: 0, maskId: id };
    if (found.sample === sample) found.count++;
  }
  return found;
}
