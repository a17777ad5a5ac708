import { existsSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";
import { readTextFile } from "../base/regular-file.js";
import { MAX_YAML_BYTES, parseYaml } from "../base/yaml-text.js";
import { StableDiffCoder } from "../checkpoint/index.js";
import {
  type DataOptionsInput,
  dataOptionsSchema,
  type PrepareProgress,
  prepareData,
  prepareSftData,
  type SftDataOptionsInput,
  sftDataOptionsSchema,
} from "../data/index.js";
import {
  autoregressiveSchema,
  bidirectionalSchema,
  blockDiffusionSchema,
  causalDiffusionSchema,
} from "../diffusion/index.js";
import { world } from "../distributed/index.js";
import {
  type Decoder,
  type DecoderConfigInput,
  decoderConfigSchema,
  PRESET_NAMES,
  type PresetName,
  presetConfig,
} from "../model/index.js";
import { CODE_TOKENIZER, Tokenizer } from "../tokenizer/index.js";
import { Curriculum } from "./curriculum.js";
import { bidirectional, blockDiffusion, causalDiffusion, supervised } from "./diffusion-stages.js";
import { parseOptions, TrainError } from "./errors.js";
import { type RunOptions, runSettingsSchema } from "./run-options.js";
import type { Sink } from "./sinks/sink.js";
import { tensorboard } from "./sinks/tensorboard.js";
import { wandb } from "./sinks/wandb.js";
import { autoregressive, type Stage, type StageData, stageSettings, withEnd } from "./stage.js";

/** A training run as described by a curriculum file: `curriculum.run({ ...run, model })`. */
export interface TrainingJob {
  curriculum: Curriculum;
  model: StableDiffCoder | Decoder;
  run: Omit<RunOptions, "model" | "signal" | "sinks">;
  /** Sinks of the file, besides metrics.jsonl and report.html. */
  sinks?: Sink[];
}

const modelSchema = z.union([
  z.enum(PRESET_NAMES as [PresetName, ...PresetName[]]),
  z.string().min(1),
  z.looseObject({ preset: z.enum(PRESET_NAMES as [PresetName, ...PresetName[]]) }),
]);

const corpus = { type: z.literal("corpus"), ...dataOptionsSchema.shape };
const sft = { type: z.literal("sft"), ...sftDataOptionsSchema.shape };
const corpusByDefault = z.union([
  z.strictObject({ ...corpus, type: corpus.type.optional() }),
  z.strictObject({ ...sft, type: sft.type }),
]);
const sftByDefault = z.union([
  z.strictObject({ ...sft, type: sft.type.optional() }),
  z.strictObject({ ...corpus, type: corpus.type }),
]);
const eitherByDefault = z.union([
  z.strictObject({ ...corpus, type: corpus.type.optional() }),
  z.strictObject({ ...sft, type: sft.type.optional() }),
]);
const inherited = "data of the stage; default: that of the recipe";

const stageSchema = z.discriminatedUnion("type", [
  withEnd({
    type: z.literal("autoregressive"),
    ...stageSettings,
    data: corpusByDefault.optional().describe(inherited),
    ...autoregressiveSchema.shape,
  }),
  withEnd({
    type: z.literal("block-diffusion"),
    ...stageSettings,
    data: corpusByDefault.optional().describe(inherited),
    ...blockDiffusionSchema.shape,
  }),
  withEnd({
    type: z.literal("bidirectional"),
    ...stageSettings,
    data: corpusByDefault.optional().describe(inherited),
    ...bidirectionalSchema.shape,
  }),
  withEnd({
    type: z.literal("causal-diffusion"),
    ...stageSettings,
    data: corpusByDefault.optional().describe(inherited),
    ...causalDiffusionSchema.shape,
  }),
  withEnd({
    type: z.literal("supervised"),
    ...stageSettings,
    data: sftByDefault.optional().describe(inherited),
    ...blockDiffusionSchema.shape,
  }),
]);

const factories = {
  autoregressive,
  "block-diffusion": blockDiffusion,
  bidirectional,
  "causal-diffusion": causalDiffusion,
  supervised,
};

/** Schema of a curriculum file in YAML. */
export const recipeSchema = z.strictObject({
  ...runSettingsSchema.omit({ resume: true, overwrite: true }).shape,
  model: modelSchema.describe(
    "model: a checkpoint's folder, a preset, or `{ preset: NAME, ... }` with fields of the config to replace",
  ),
  tokenizer: z
    .string()
    .min(1)
    .optional()
    .describe("folder of the tokenizer; default: that of the checkpoint, else `diffcoder/code-4k`"),
  dtype: z
    .enum(["float32", "bfloat16", "auto"])
    .default("float32")
    .describe("data type of the weights: float32, bfloat16, or auto, as saved in the checkpoint"),
  data: eitherByDefault.optional().describe("data of the stages that do not have their own"),
  stages: z.array(stageSchema).min(1).describe("stages of the curriculum, in order"),
  tensorboard: z
    .union([z.boolean(), z.string().min(1)])
    .default(false)
    .describe("write TensorBoard event files: `true` for the folder tensorboard of the run, or another folder"),
  wandb: z
    .union([
      z.string().min(1),
      z.strictObject({
        project: z.string().min(1),
        entity: z.string().min(1).optional(),
        name: z.string().min(1).optional(),
        mode: z.enum(["online", "offline", "disabled"]).optional(),
      }),
    ])
    .optional()
    .describe("send the run to Weights & Biases: the project, or `{ project, entity, name, mode }`"),
});

/** A recipe as written, before defaults are filled in. */
export type RecipeInput = z.input<typeof recipeSchema>;

export interface RecipeContext {
  device?: string;
  seed?: number;
  onProgress?: (progress: PrepareProgress) => void;
  signal?: AbortSignal;
  /** Folder for tokenized data; overrides the recipe's. */
  cache?: string;
}

/**
 * Reads a curriculum file in YAML. Relative paths in it are relative to the working directory.
 *
 * @throws TrainError TRAIN_FILE naming the line of a syntax error, or every invalid key with its path and the allowed
 *   values
 */
export function readRecipe(path: string): RecipeInput {
  let text: string;
  try {
    text = readTextFile(path, MAX_YAML_BYTES);
  } catch (cause) {
    throw new TrainError("TRAIN_FILE", `cannot read ${path}: ${(cause as Error).message}`, { cause });
  }
  return parseRecipe(text, path);
}

/** {@link readRecipe} for a text that is already read. */
export function parseRecipe(text: string, path: string): RecipeInput {
  let value: unknown;
  try {
    value = parseYaml(text);
  } catch (cause) {
    throw new TrainError("TRAIN_FILE", `${path} is not valid YAML: ${(cause as Error).message}`, { cause });
  }
  parseOptions(path, recipeSchema, value, "TRAIN_FILE");
  return value as RecipeInput;
}

/**
 * Builds the run of a recipe: reads the data and creates or loads the model.
 *
 * @throws DataError, ModelError, TokenizerError, TrainError
 */
export async function buildRecipe(input: RecipeInput, context: RecipeContext = {}): Promise<TrainingJob> {
  const recipe = parseOptions("recipe", recipeSchema, input, "TRAIN_FILE");
  const { model: _model, tokenizer: _tokenizer, dtype: _dtype, data: _data, stages: _stages, ...rest } = recipe;
  const { tensorboard: _tensorboard, wandb: _wandb, ...settings } = rest;
  const run = {
    ...settings,
    seed: context.seed ?? recipe.seed,
    device: context.device ?? recipe.device ?? world()?.device,
  };
  const sinks = sinksOf(recipe); // before the data is read, because the SDK may be missing
  const tokenizer = openTokenizer(recipe.tokenizer, recipe.model);
  const sources = new Map<string, Promise<StageData>>();
  const stages: Stage[] = [];
  for (const [index, { type, data = input.data, ...options }] of input.stages.entries()) {
    if (data === undefined)
      throw new TrainError("TRAIN_FILE", `stages[${index}].data: missing, and the recipe has none`);
    const { type: kind = type === "supervised" ? "sft" : "corpus", ...chosen } = data;
    const key = JSON.stringify([kind, chosen]);
    // Stages with the same data share one source: each continues where the previous one stopped reading.
    const source = sources.get(key) ?? openData(kind, chosen, tokenizer, run.seed, context);
    sources.set(key, source);
    const made = { ...options, data: await source };
    // Each factory checks its options again; the recipe's schema has checked them for this type.
    stages.push((factories[type] as (options: object) => Stage)(made));
  }
  const curriculum = new Curriculum(stages);
  const model = await openModel(recipe, tokenizer, run);
  return { curriculum, model, run, sinks };
}

function sinksOf({ tensorboard: folder, wandb: choice }: Recipe): Sink[] {
  const sinks: Sink[] = [];
  if (folder !== false) sinks.push(tensorboard(folder === true ? undefined : folder));
  if (choice !== undefined) sinks.push(wandb(typeof choice === "string" ? { project: choice } : choice));
  return sinks;
}

async function openData(
  kind: "corpus" | "sft",
  data: object,
  tokenizer: Tokenizer,
  seed: number,
  { onProgress, signal, cache }: RecipeContext,
): Promise<StageData> {
  if (kind === "sft") return await prepareSftData({ seed, ...(data as SftDataOptionsInput) }, tokenizer);
  const options = { seed, ...(data as DataOptionsInput), ...(cache !== undefined && { cache }) };
  return await prepareData(options, tokenizer, { onProgress, signal });
}

type Recipe = z.output<typeof recipeSchema>;

function openTokenizer(given: string | undefined, model: Recipe["model"]): Tokenizer {
  if (given !== undefined) return Tokenizer.fromPretrained(given);
  if (typeof model === "string" && !isPreset(model) && existsSync(join(model, "tokenizer.json"))) {
    return Tokenizer.fromPretrained(model);
  }
  return Tokenizer.fromPretrained(CODE_TOKENIZER);
}

function isPreset(name: string): name is PresetName {
  return (PRESET_NAMES as readonly string[]).includes(name);
}

async function openModel(
  recipe: Recipe,
  tokenizer: Tokenizer,
  { seed, device }: { seed: number; device?: string },
): Promise<StableDiffCoder> {
  const { model, dtype } = recipe;
  const made = { tokenizer, seed, device, ...(dtype !== "auto" && { dtype }) };
  if (typeof model !== "string") {
    const { preset, ...fields } = model;
    // Unknown fields are reported here, with the path of the file.
    const config = { ...presetConfig(preset), vocabSize: Math.ceil(tokenizer.vocabSize / 64) * 64, ...fields };
    return StableDiffCoder.fromConfig(
      parseOptions("model", decoderConfigSchema, config, "TRAIN_FILE") as DecoderConfigInput,
      made,
    );
  }
  if (isPreset(model)) return StableDiffCoder.fromConfig(model, made);
  if (!existsSync(model)) {
    const presets = PRESET_NAMES.join(", ");
    throw new TrainError("TRAIN_FILE", `model: ${model} is neither a folder nor a preset (${presets})`);
  }
  const loaded = await StableDiffCoder.fromPretrained(model, { device, dtype });
  if (loaded.hasTokenizer && recipe.tokenizer === undefined) return loaded;
  return new StableDiffCoder(loaded.model, tokenizer, model);
}
