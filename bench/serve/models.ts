import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { StableDiffCoder } from "stable-diffcoder/checkpoint";
import { type PresetName, presetConfig } from "stable-diffcoder/model";
import type { Tokenizer } from "stable-diffcoder/tokenizer";

const TOKENIZER = fileURLToPath(new URL("../../assets/tokenizer", import.meta.url));
const SEED = 7;

/** A checkpoint that both sides read. */
export interface BenchModel {
  name: string;
  folder: string;
  parameters: number;
  context: number;
  maskId: number;
  tokenizer: Tokenizer;
  /** Whether its weights are random: no probability then means anything. */
  random: boolean;
}

/** Saves a preset with random weights of a fixed seed, and the library's tokenizer beside them. */
export async function randomModel(preset: PresetName, folder: string): Promise<BenchModel> {
  const path = join(folder, preset);
  using coder = StableDiffCoder.fromConfig(presetConfig(preset), { tokenizer: TOKENIZER, seed: SEED });
  await coder.savePretrained(path);
  return describe(coder, preset, path, true);
}

/** A trained checkpoint. @throws Error where it lacks what the benchmark needs */
export async function trainedModel(path: string): Promise<BenchModel> {
  if (!existsSync(path)) throw new Error(`--model: there is no ${path}`);
  using coder = await StableDiffCoder.fromPretrained(path);
  if (!coder.hasTokenizer) throw new Error(`--model: ${path} has no tokenizer.json, and prompts are text`);
  return describe(coder, basename(resolve(path)), resolve(path), false);
}

function describe(coder: StableDiffCoder, name: string, folder: string, random: boolean): BenchModel {
  const { maskTokenId, maxPositionEmbeddings: context } = coder.config;
  if (maskTokenId === null) throw new Error(`${folder} names no mask token: it cannot denoise`);
  const { tokenizer, model } = coder;
  return { name, folder, parameters: model.numParameters(), context, maskId: maskTokenId, tokenizer, random };
}
