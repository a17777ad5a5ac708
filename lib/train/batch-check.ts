import { inspect } from "node:util";
import type { Batch } from "../model/index.js";
import { TrainError } from "./errors.js";

/** A sample whose clean text contains the mask token. */
export interface MaskFound {
  sample: number | null;
  count: number;
  maskId: number;
}

/**
 * Checks the tokens of a batch before the forward pass: on a GPU an id outside the vocabulary aborts the process.
 *
 * @param where location for the message, e.g. "stage 'cpt', step 7"
 * @returns the first row with mask tokens among its clean ones
 * @throws TrainError TRAIN_DATA naming the sample, the position and the id
 */
export function checkTokens(
  where: string,
  batch: Batch,
  { vocabSize, maskId }: { vocabSize: number; maskId: number | undefined },
): MaskFound | undefined {
  const fail = (what: string) => new TrainError("TRAIN_DATA", `${where}: ${what}`);
  const { tokens, batch: rows, seqLen } = batch ?? {};
  if (!(tokens instanceof Int32Array) || tokens.length !== rows * seqLen) {
    throw fail(`the loader returned ${inspect(batch, { depth: 0 }).slice(0, 80)}, expected a batch`);
  }
  let found: MaskFound | undefined;
  for (let i = 0; i < tokens.length; i++) {
    const id = tokens[i];
    if (id >= 0 && id < vocabSize && id !== maskId) continue;
    const row = Math.floor(i / seqLen);
    const sample = batch.samples?.[row] ?? null;
    if (id !== maskId) {
      const place = `${sample === null ? `row ${row} of the batch` : `sample ${sample}`} has the token id ${id} at position ${i % seqLen}`;
      throw fail(
        `${place}, but the model's largest id is ${vocabSize - 1}. Was the data tokenized with another tokenizer?`,
      );
    }
    found ??= { sample, count: 0, maskId: id };
    if (found.sample === sample) found.count++;
  }
  return found;
}
