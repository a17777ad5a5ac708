import { setImmediate as nextTurn } from "node:timers/promises";
import type { StableDiffCoder } from "../checkpoint/index.js";
import { bidirectionalPlan } from "../diffusion/attention-plan.js";
import { uploadIntegers } from "../diffusion/batch.js";
import type { Decoder } from "../model/decoder.js";
import * as torch from "../torch/index.js";
import { EngineError } from "./errors.js";
import { maskIdOf, modelInfo } from "./load.js";
import { type BidirectionalGenerationSettings, engineOptionsSchema } from "./options.js";
import { makeRequest, type Prompt, renderPrompt } from "./request.js";
import { type SampledToken, sampleRows } from "./sample.js";
import { Sequence } from "./sequence.js";
import type { EngineEvent } from "./types.js";

/** Decodes a prompt over its whole canvas, see {@link generateBidirectional} in generate.ts. */
export async function* decodeBidirectional(
  coder: StableDiffCoder,
  prompt: Prompt,
  { signal, shift, maskId, ...own }: BidirectionalGenerationSettings,
): AsyncGenerator<EngineEvent, void> {
  const { vocabSize, maxPositionEmbeddings: maxLength } = coder.config;
  const tokenizer = coder.hasTokenizer ? coder.tokenizer : undefined;
  const settings = engineOptionsSchema.parse({ shift, maskId, blockSize: own.blockSize });
  const mask = maskIdOf(coder, settings);
  const info = modelInfo(coder, settings, { maskId: mask, maxLength });
  const ids = renderPrompt(prompt, undefined, { tokenizer, vocabSize, fimFormat: settings.fimFormat });
  const parsed = { ...own, mode: "diffusion" as const, priority: 0 };
  const request = makeRequest(0, ids, parsed, { tokenizer, info, settings, isHere: true });
  const textOf = (id: number) => tokenizer?.decode([id]) ?? "";
  const described = { maskId: mask, shift, bidirectional: true, tokenizer, textOf };
  const sequences = Array.from({ length: own.n }, (_, index) => new Sequence(request, index, described));

  for (const sequence of sequences) {
    sequence.startedAt = Date.now();
    yield { type: "start", index: sequence.index, promptTokens: ids.length, cachedTokens: 0 };
  }
  for (let open = sequences; open.length > 0; open = open.filter(({ finishReason }) => !finishReason)) {
    await nextTurn(); // other work of the process goes on between passes
    if (signal?.aborted) {
      for (const sequence of open) yield* endedBy(sequence, "abort");
      return;
    }
    try {
      const sampled = forward(coder.model, open, mask);
      for (const [i, sequence] of open.entries()) {
        sequence.forwards++;
        yield* sequence.apply(sampled[i]);
        if (sequence.finishReason) yield sequence.done(Date.now());
      }
    } catch (error) {
      for (const sequence of open) if (!sequence.finishReason) yield* endedBy(sequence, "error");
      throw error;
    }
  }
}

function endedBy(sequence: Sequence, reason: "abort" | "error"): EngineEvent[] {
  return [...sequence.stop(reason), sequence.done(Date.now())];
}

/**
 * One pass over the canvases of all sequences, which have the same length.
 *
 * @returns the tokens sampled for the rows of each sequence
 */
function forward(model: Decoder, sequences: readonly Sequence[], maskId: number): SampledToken[][] {
  const length = sequences[0].tokens.length;
  const wanted = sequences.map((sequence) => sequence.rows());
  const canvases = Int32Array.from(sequences.flatMap(({ tokens }) => [...tokens]));
  const rowIndices = Int32Array.from(wanted.flatMap(({ positions }, i) => positions.map((at) => i * length + at)));
  const sampled = torch.scope(() =>
    torch.noGrad(() => {
      const [ids, rows] = uploadIntegers([canvases, rowIndices], model.device);
      const plan = bidirectionalPlan(length, { rows, rowIndices, device: model.device });
      const hidden = model.forward(ids.view([sequences.length, length]), plan);
      const sampling = wanted.flatMap((each) => each.rows);
      return sampleRows(model.logits(hidden), sampling, maskId);
    }),
  );
  if (sampled.some(({ logprob }) => Number.isNaN(logprob))) {
    const message = "the model's logits are not numbers (NaN), or logitBias forbids every token";
    throw new EngineError("ENGINE_MODEL", message);
  }
  const rest = [...sampled];
  return wanted.map(({ rows }) => rest.splice(0, rows.length));
}
