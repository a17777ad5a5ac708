import { existsSync } from "node:fs";
import { join } from "node:path";
import { type DecoderConfig, type DecoderConfigInput, decoderConfig } from "../model/config.js";
import { Decoder } from "../model/decoder.js";
import { ModelError } from "../model/errors.js";
import { type PresetName, presetConfig } from "../model/presets.js";
import { Tokenizer } from "../tokenizer/tokenizer.js";
import type { DTypeLike } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { loadWeights, readConfig } from "./read.js";
import { stagedFolder } from "./staging.js";
import { type SaveCheckpointOptions, saveCheckpoint } from "./write.js";

/** Options of {@link StableDiffCoder.fromPretrained}. */
export interface FromPretrainedOptions {
  /** Default "auto": the dtype in config.json, else float32. */
  dtype?: DTypeLike | "auto";
  /** Default "cpu". */
  device?: string;
}

/** Options of {@link StableDiffCoder.fromConfig}. */
export interface FromConfigOptions {
  /** A tokenizer, or its folder. */
  tokenizer?: Tokenizer | string;
  /** Seed of the initial weights; default 0. The same seed gives the same weights on every device. */
  seed?: number | bigint;
  /** Default "float32". */
  dtype?: DTypeLike;
  /** Default "cpu". */
  device?: string;
}

/** A decoder with its tokenizer and its config, as in a checkpoint folder. */
export class StableDiffCoder {
  readonly model: Decoder;
  /** The folder that it was loaded from, if any. */
  readonly path: string | undefined;
  readonly #tokenizer: Tokenizer | undefined;

  constructor(model: Decoder, tokenizer?: Tokenizer, path?: string) {
    this.model = model;
    this.path = path;
    this.#tokenizer = tokenizer;
  }

  /**
   * Loads a checkpoint in Hugging Face layout: Seed-Coder, Stable-DiffCoder, Llama, Qwen2 and 3, Mistral, or a training
   * checkpoint of this library.
   *
   * @param path a folder with config.json, safetensors and, for text, tokenizer.json
   * @throws ModelConfigError, CheckpointError or TokenizerError naming the file and the problem
   */
  static async fromPretrained(path: string, options: FromPretrainedOptions = {}): Promise<StableDiffCoder> {
    const { dtype = "auto", device = "cpu" } = options;
    const folder = stagedFolder(path);
    let config = readConfig(folder);
    const tokenizer = existsSync(join(folder, "tokenizer.json")) ? Tokenizer.fromPretrained(folder) : undefined;
    const maskId = tokenizer?.maskId;
    if (config.maskTokenId === null && maskId !== undefined && maskId < config.vocabSize) {
      config = { ...config, maskTokenId: maskId };
    }
    const model = new Decoder(config, {
      dtype: dtype === "auto" ? (config.dtype ?? "float32") : dtype,
      device,
      init: false,
    });
    try {
      await loadWeights(model, folder);
    } catch (error) {
      model.dispose();
      throw error;
    }
    return new StableDiffCoder(model, tokenizer, folder);
  }

  /**
   * Creates a model with random weights.
   *
   * @param shape a preset's name or a config. A preset takes vocabulary and special tokens from the tokenizer, if
   *   given.
   * @throws ModelConfigError for an invalid config, or if the tokenizer has more tokens than the model
   */
  static fromConfig(shape: PresetName | DecoderConfigInput, options: FromConfigOptions = {}): StableDiffCoder {
    const { seed = 0, dtype, device } = options;
    const tokenizer =
      typeof options.tokenizer === "string" ? Tokenizer.fromPretrained(options.tokenizer) : options.tokenizer;
    const config = typeof shape === "string" ? presetConfig(shape, vocabularyOf(tokenizer)) : decoderConfig(shape);
    if (tokenizer && tokenizer.vocabSize > config.vocabSize) {
      throw new ModelError(
        "MODEL_CONFIG",
        `vocabSize is ${config.vocabSize}, but the tokenizer at ${tokenizer.dir} has ${tokenizer.vocabSize} tokens`,
      );
    }
    using generator = new torch.Generator({ seed });
    return new StableDiffCoder(new Decoder(config, { dtype, device, generator }), tokenizer);
  }

  get config(): DecoderConfig {
    return this.model.config;
  }

  get device(): string {
    return this.model.device;
  }

  /** @throws ModelError if the checkpoint has no tokenizer */
  get tokenizer(): Tokenizer {
    if (this.#tokenizer) return this.#tokenizer;
    const where = this.path ? `${this.path} has no tokenizer.json` : "the model was created without a tokenizer";
    throw new ModelError("MODEL_INPUT", where);
  }

  get hasTokenizer(): boolean {
    return this.#tokenizer !== undefined;
  }

  /**
   * Saves the model in Hugging Face layout with its tokenizer. The folder is replaced atomically and is unchanged if
   * saving fails. It may be the folder that the model was loaded from.
   */
  async savePretrained(folder: string, options: SaveCheckpointOptions = {}): Promise<void> {
    await saveCheckpoint(this.model, folder, { filesFrom: this.#tokenizer?.dir ?? this.path, ...options });
  }

  /** Converts the model's dtype and device, see {@link Decoder.to}. */
  to(options: { dtype?: DTypeLike; device?: string }): this {
    this.model.to(options);
    return this;
  }

  /** Frees the weights. */
  dispose(): void {
    this.model.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

// The embedding has a multiple of 64 rows, which is efficient for matrix products.
function vocabularyOf(tokenizer: Tokenizer | undefined): Partial<DecoderConfigInput> {
  if (!tokenizer) return {};
  const [end, ...ends] = tokenizer.eosIds;
  return {
    vocabSize: Math.ceil(tokenizer.vocabSize / 64) * 64,
    bosTokenId: tokenizer.bosId ?? null,
    eosTokenId: end === undefined ? null : ends.length > 0 ? [end, ...ends] : end,
    padTokenId: tokenizer.padId ?? null,
    maskTokenId: tokenizer.maskId ?? null,
  };
}
