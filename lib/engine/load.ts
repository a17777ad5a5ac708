import { StableDiffCoder } from "../checkpoint/index.js";
import { countParameters, type Decoder, layerMatrices } from "../model/decoder.js";
import { type Linear, wrapForward } from "../nn/index.js";
import { messageOf } from "../torch/errors.js";
import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { EngineError } from "./errors.js";
import type { EngineSettings } from "./options.js";
import type { ModelInfo } from "./types.js";

/** A model with all that was made for it. */
export interface LoadedModel {
  coder: StableDiffCoder;
  dispose(): void;
}

/**
 * Loads a checkpoint as the settings say.
 *
 * @throws EngineError ENGINE_MODEL, ENGINE_OPTIONS
 */
export async function loadModel(folder: string, settings: EngineSettings): Promise<LoadedModel> {
  const { device, dtype, threads, quantization } = settings;
  if (threads !== undefined) torch.setNumThreads(threads);
  let coder: StableDiffCoder | undefined;
  try {
    const loaded = await StableDiffCoder.fromPretrained(folder, { device, dtype });
    coder = loaded;
    const disposeInt8 = quantization === "int8" ? quantizeWeights(loaded.model) : () => {};
    const dispose = () => {
      disposeInt8();
      loaded.dispose();
    };
    return { coder: loaded, dispose };
  } catch (error) {
    coder?.dispose();
    if (error instanceof EngineError) throw error;
    const message = messageOf(error);
    throw new EngineError("ENGINE_MODEL", `cannot load ${folder}: ${message}`, { cause: error });
  }
}

/**
 * Replaces every matrix of a decoder by int8 with a scale per output channel, and frees the matrices it replaces; the
 * head keeps its own too, for scoring and where it shares the embedding's. Embedding, norms and attention stay as they
 * are. Activations are rounded to int8 row by row as they come to a matrix, so products are of integers and exact. For
 * inference only: the model can no longer be trained, saved or moved.
 *
 * @returns frees what was made
 * @throws EngineError ENGINE_OPTIONS elsewhere than on the CPU
 */
export function quantizeWeights(model: Decoder): () => void {
  if (model.device !== "cpu") {
    throw new EngineError("ENGINE_OPTIONS", `quantization: int8 runs on the CPU, the model is on ${model.device}`);
  }
  const made: Tensor[] = [];
  const pack = (weight: Tensor): [packed: Tensor, scales: Tensor] => {
    const pair = torch.noGrad(() => torch.ops.diffcoder.int8_pack(weight)) as [Tensor, Tensor];
    made.push(...torch.keep(pair));
    return pair;
  };
  for (const [, linear] of layerMatrices(model)) {
    const [packed, scales] = pack(linear.weight);
    const { bias } = linear;
    wrapForward<Linear>(linear, () => (x) => torch.ops.diffcoder.int8_linear(x, packed, scales, bias) as Tensor);
    // [out, 0]: code that walks over parameters still finds one, and its rows.
    const rows = linear.weight.size(0);
    linear.weight.dispose();
    linear.weight = torch.keep(torch.empty([rows, 0], { dtype: model.embedTokens.weight.dtype }));
  }
  const [packed, scales] = pack(model.headWeight);
  Object.defineProperty(model, "logits", {
    value: (hidden: Tensor) => torch.ops.diffcoder.int8_linear(hidden, packed, scales, null) as Tensor,
    configurable: true,
  });
  return () => {
    for (const tensor of made) tensor.dispose();
  };
}

/** What callers get to know of a model. @param limits as the engine's core found them */
export function modelInfo(
  coder: StableDiffCoder,
  { quantization, blockSize }: EngineSettings,
  { maskId, maxLength }: { maskId: number; maxLength: number },
): ModelInfo {
  const { model } = coder;
  const { vocabSize, maxPositionEmbeddings, eosTokenId } = model.config;
  const tokenizer = coder.hasTokenizer ? coder.tokenizer : undefined;
  return {
    name: coder.path ?? "in-memory",
    vocabSize,
    parameters: countParameters(model.config),
    contextLength: maxPositionEmbeddings,
    maxLength,
    maskId: maskId < 0 ? null : maskId,
    eosIds: [eosTokenId ?? []].flat(),
    hasTokenizer: tokenizer !== undefined,
    hasFim: tokenizer?.fim !== undefined,
    hasChatTemplate: tokenizer?.hasChatTemplate ?? false,
    dtype: model.embedTokens.weight.dtype,
    device: model.device,
    quantization: quantization ?? null,
    blockSize,
  };
}

/** @throws EngineError ENGINE_OPTIONS for a mask token without an embedding */
export function maskIdOf({ model: { config } }: StableDiffCoder, settings: EngineSettings): number {
  const maskId = settings.maskId ?? config.maskTokenId ?? -1;
  if (maskId < config.vocabSize) return maskId;
  throw new EngineError("ENGINE_OPTIONS", `maskId: ${maskId} is outside the vocabulary of ${config.vocabSize}`);
}
