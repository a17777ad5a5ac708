import { createHash } from "node:crypto";
import { createReadStream, existsSync, readdirSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { type Engine, EngineError, type GenerateOptions } from "../engine/index.js";
import { EvaluationError } from "./errors.js";
import {
  type AnswerGenerator,
  type CompleteOptions,
  type Generation,
  type GenerationRequest,
  type GeneratorInfo,
  inParallel,
} from "./generate.js";
import type { Decoding } from "./options.js";

/** Answers that are with the engine at a time, for each sequence of its batches: the next are ready when one ends. */
const AHEAD = 2;

/** A model in this library's engine. Answers do not depend on the batch that they are decoded in. */
export class EngineGenerator implements AnswerGenerator {
  readonly #engine: Engine;
  readonly #decoding: Decoding;
  readonly #folder: string | undefined;

  /**
   * @param engine with a tokenizer; it stays its owner's
   * @param folder the checkpoint, of which the results keep the hash; undefined for a model in memory
   */
  constructor(engine: Engine, decoding: Decoding, folder?: string) {
    if (!engine.tokenizer) throw new EvaluationError("EVAL_MODEL", `${folder ?? "the model"} has no tokenizer`);
    this.#engine = engine;
    this.#decoding = decoding;
    this.#folder = folder;
  }

  async info(signal?: AbortSignal): Promise<GeneratorInfo> {
    const { name, dtype, device, quantization, blockSize, parameters } = this.#engine.model;
    return {
      kind: "model",
      name: basename(resolve(this.#folder ?? name)),
      hash: this.#folder && (await hashCheckpoint(this.#folder, signal)),
      details: { parameters, dtype, device, quantization, blockSize: this.#decoding.blockSize ?? blockSize },
    };
  }

  async complete(requests: readonly GenerationRequest[], { signal, onDone }: CompleteOptions): Promise<void> {
    const lanes = AHEAD * this.#engine.settings.maxNumSeqs;
    await inParallel(requests.length, lanes, async (index) => {
      signal?.throwIfAborted();
      onDone(index, await this.#answer(requests[index], signal));
    });
  }

  async #answer({ prompt, stop, maxTokens, seed }: GenerationRequest, signal?: AbortSignal): Promise<Generation> {
    const { temperature, topP, topK, mode, blockSize, steps, threshold } = this.#decoding;
    const options: GenerateOptions = {
      ...{ mode, temperature, topP, topK, seed, stop: [...stop] },
      ...(blockSize !== undefined && { blockSize }),
      ...(steps !== undefined && { steps }),
      ...(threshold !== undefined && { commit: { rule: "threshold", value: threshold } }),
    };
    const tokenizer = this.#engine.tokenizer;
    let given: string | number[];
    if ("text" in prompt) {
      given = prompt.text;
      if (prompt.suffix !== undefined) options.suffix = prompt.suffix;
    } else {
      given = tokenizer?.encodeChat([{ role: "user", content: prompt.message }], { addGenerationPrompt: true }) ?? [];
    }
    const length = typeof given === "string" ? (tokenizer?.encode(given).length ?? 0) : given.length;
    const after = options.suffix === undefined ? 0 : (tokenizer?.encode(String(options.suffix)).length ?? 0) + 3;
    const room = this.#engine.model.maxLength - length - after;
    if (room < 1) return { text: "", finishReason: "prompt-too-long" };
    try {
      const choice = await this.#engine.complete(
        given,
        { ...options, maxTokens: Math.min(maxTokens, room) },
        { signal },
      );
      signal?.throwIfAborted();
      return { text: choice.text, finishReason: choice.finishReason, tokens: choice.usage.completionTokens };
    } catch (cause) {
      if (!(cause instanceof EngineError)) throw cause;
      throw new EvaluationError("EVAL_MODEL", `the model cannot answer: ${cause.message}`, { cause });
    }
  }
}

/**
 * SHA-256 over the names and contents of a checkpoint's config, tokenizer and weights.
 *
 * @throws the signal's reason
 */
export async function hashCheckpoint(folder: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
  const isPart = (name: string) => /\.safetensors$/.test(name) || ["config.json", "tokenizer.json"].includes(name);
  const names = existsSync(folder) ? readdirSync(folder).filter(isPart).sort() : [];
  for (const name of names) {
    hash.update(`${name}\0`);
    for await (const chunk of createReadStream(join(folder, name), { highWaterMark: 1 << 20 })) {
      signal?.throwIfAborted();
      hash.update(chunk);
    }
  }
  return hash.digest("hex");
}
