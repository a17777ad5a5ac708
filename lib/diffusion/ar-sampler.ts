import { setImmediate as nextTurn } from "node:timers/promises";
import type { Decoder } from "../model/decoder.js";
import { resolveStopIds } from "./batch.js";
import { DiffusionError, parseOptions } from "./errors.js";
import {
  type AutoregressiveGenerationEvent,
  type AutoregressiveGenerationOptions,
  autoregressiveGenerationSchema,
  layOutSequence,
  type SamplerDoneEvent,
} from "./generation.js";
import { CachedForward, type SequenceForward, UncachedForward } from "./sequence-forward.js";
import { chooseTokens } from "./token-choice.js";

/**
 * Left-to-right decoding: one token per forward, from the hidden state before it. The mask is causal, so this is the
 * model of the AR stages; weights trained by diffusion can be run this way too.
 *
 * @param prompt token ids, on the host; at least one
 * @throws DiffusionError DIFFUSION_OPTIONS, DIFFUSION_PROMPT, or DIFFUSION_LOGITS when the model's logits are NaN
 */
export async function* generateAutoregressive(
  model: Decoder,
  prompt: ArrayLike<number>,
  options: AutoregressiveGenerationOptions,
): AsyncGenerator<AutoregressiveGenerationEvent, SamplerDoneEvent> {
  const settings = parseOptions("generateAutoregressive", autoregressiveGenerationSchema, options);
  const { maxTokens, signal, prefillChunk } = settings;
  const stopTokenIds = resolveStopIds(model.config, settings.stopTokenIds);
  if (prompt.length === 0) {
    throw new DiffusionError("DIFFUSION_PROMPT", "the prompt is empty: give at least a start token");
  }
  const sequence = layOutSequence(model.config, prompt, maxTokens, 0);
  const total = sequence.length;
  using forward: SequenceForward = settings.cache
    ? new CachedForward(model, { blockSize: 1, maxLength: total, fusedStore: true, overlap: 0, prefillChunk })
    : new UncachedForward(model, 1);

  let end = prompt.length;
  let finishReason: SamplerDoneEvent["finishReason"] = "length";
  let stopId: number | undefined;
  for (; end < total; end++) {
    await nextTurn();
    if (signal?.aborted) {
      finishReason = "abort";
      break;
    }
    using logits = forward.logits({ sequence, finished: end, end, rows: [end - 1] });
    const { ids, confidence } = await chooseTokens(logits, [{ position: end, pass: 0 }], settings);
    if (stopTokenIds.has(ids[0])) {
      finishReason = "stop";
      stopId = ids[0];
      break;
    }
    sequence[end] = ids[0];
    yield { type: "token", position: end, id: ids[0], confidence: confidence[0], forwards: forward.forwards };
  }
  const event: SamplerDoneEvent = {
    type: "done",
    ids: [...sequence.subarray(prompt.length, end)],
    finishReason,
    ...(stopId !== undefined && { stopId }),
    forwards: forward.forwards,
  };
  yield event;
  return event;
}
