import { closeSync, existsSync } from "node:fs";
import { extname, resolve } from "node:path";
import { openRegularFile } from "../base/regular-file.js";
import { renamedOption } from "../base/renamed-options.js";
import { StableDiffCoder } from "../checkpoint/index.js";
import type { PrepareProgress } from "../data/index.js";
import { world } from "../distributed/index.js";
import { Decoder } from "../model/index.js";
import { parallelSchema } from "../parallel/index.js";
import { Curriculum, joinLaunched } from "./curriculum.js";
import { parseOptions, TrainError } from "./errors.js";
import { importFile } from "./load-module.js";
import { buildRecipe, readRecipe, type TrainingJob } from "./recipe.js";
import { runSettingsSchema } from "./run-options.js";
import type { Stage } from "./stage.js";
import { settled } from "./user-code.js";

/** Settings of the caller that override those of the file. */
export interface LoadCurriculumOptions {
  device?: string;
  seed?: number;
  /** Folder of a checkpoint to start from instead of the file's model. */
  model?: string;
  /**
   * Folder for tokenized data. Used for YAML files only; TypeScript files pass it to prepareData, whose default is
   * DIFFCODER_CACHE.
   */
  cache?: string;
  onProgress?: (progress: PrepareProgress) => void;
  signal?: AbortSignal;
  /** Called with the file's `outputDir` before any data is read. An error that it throws aborts the loading. */
  beforeData?: (file: { outputDir?: string }) => void;
}

/** Argument of the functions that a curriculum file exports. */
export interface CurriculumFileContext {
  device?: string;
  seed: number;
  signal?: AbortSignal;
}

type Stages = Curriculum | readonly Stage[];
type Model = StableDiffCoder | Decoder | string;
type Maker<T> = T | ((context: CurriculumFileContext) => T | Promise<T>);

/** Exports of a curriculum file in TypeScript, named or as the properties of the default export. */
export interface CurriculumFile extends Omit<TrainingJob["run"], "resume" | "overwrite"> {
  curriculum: Maker<Stages>;
  /** A string is the folder of a checkpoint. */
  model?: Maker<Model>;
}

const EXTENSIONS = [".ts", ".mts", ".js", ".mjs", ".yaml", ".yml"];

/**
 * Reads a curriculum file. A YAML file is a recipe, see {@link readRecipe}. A TypeScript or JavaScript file exports
 * `curriculum` (a Curriculum or a list of stages) and `model`, each a value or a function that returns one, and
 * optionally options of the run such as `outputDir`, `seed` and `device`. Its default export can be an object with
 * these properties, or the curriculum.
 *
 * @throws TrainError TRAIN_FILE for a file that is not a curriculum, and any error that the file throws
 */
export async function loadCurriculum(path: string, options: LoadCurriculumOptions = {}): Promise<TrainingJob> {
  const file = resolve(path);
  if (!existsSync(file)) throw new TrainError("TRAIN_FILE", `${path} does not exist`);
  try {
    closeSync(openRegularFile(file).descriptor); // importing a pipe would block forever
  } catch (cause) {
    throw new TrainError("TRAIN_FILE", `cannot read ${path}: ${(cause as Error).message}`, { cause });
  }
  const extension = extname(file);
  if (!EXTENSIONS.includes(extension)) {
    throw new TrainError(
      "TRAIN_FILE",
      `${path} is not a curriculum file: expected one that ends in ${EXTENSIONS.join(" ")}`,
    );
  }
  if (extension === ".yaml" || extension === ".yml") {
    const recipe = readRecipe(file);
    options.beforeData?.({ outputDir: recipe.outputDir });
    await joinLaunched(parallelSchema.parse(recipe.parallel ?? {}));
    return buildRecipe(options.model === undefined ? recipe : { ...recipe, model: options.model }, options);
  }
  await joinLaunched(parallelSchema.parse({})); // the file's own code may already read the rank and the world size
  const exports = await settled(importFile(file), neverSettles(path, "an await at its top level"));
  return await fromExports(path, exports, options);
}

async function fromExports(
  path: string,
  exports: Record<string, unknown>,
  options: LoadCurriculumOptions,
): Promise<TrainingJob> {
  const given = describe(exports);
  if (given?.curriculum === undefined) {
    throw new TrainError(
      "TRAIN_FILE",
      `${path} does not export a curriculum: write export const curriculum = new Curriculum([...])`,
    );
  }
  const settings = parseOptions(path, fileSettings, pickSettings(given), "TRAIN_FILE");
  options.beforeData?.({ outputDir: settings.outputDir });
  const device = options.device ?? settings.device ?? world()?.device;
  const run = { ...settings, seed: options.seed ?? settings.seed, device };
  const context: CurriculumFileContext = { device: run.device, seed: run.seed, signal: options.signal };
  const stages = await make(given.curriculum, context, neverSettles(path, "`curriculum`"));
  if (!(stages instanceof Curriculum) && !Array.isArray(stages)) {
    throw new TrainError("TRAIN_FILE", `${path}: curriculum is neither a Curriculum nor a list of stages`);
  }
  const curriculum = stages instanceof Curriculum ? stages : new Curriculum(stages);
  const named = options.model ?? (await make(given.model, context, neverSettles(path, "`model`")));
  if (named === undefined) {
    const hint = 'write export const model = await StableDiffCoder.fromPretrained("...")';
    throw new TrainError("TRAIN_FILE", `${path} does not export a model: ${hint}`);
  }
  const model = typeof named === "string" ? await StableDiffCoder.fromPretrained(named, { device: run.device }) : named;
  if (!(model instanceof StableDiffCoder) && !(model instanceof Decoder)) {
    throw new TrainError("TRAIN_FILE", `${path}: model is neither a StableDiffCoder nor the folder of a checkpoint`);
  }
  return { curriculum, model, run };
}

const fileSettings = runSettingsSchema.omit({ resume: true, overwrite: true });

/** The named exports, merged over the properties of the default export. */
function describe(exports: Record<string, unknown>): Record<string, unknown> | undefined {
  const { default: main, ...named } = exports;
  if (main instanceof Curriculum || Array.isArray(main) || typeof main === "function")
    return { curriculum: main, ...named };
  return typeof main === "object" && main !== null ? { ...main, ...named } : named;
}

/**
 * The exports that are options of the run, including the names of 0.1.0, which are rejected later. Other exports are
 * ignored.
 */
function pickSettings(given: Record<string, unknown>): Record<string, unknown> {
  const names = Object.keys(fileSettings.shape);
  const isSetting = (key: string) => names.includes(key) || renamedOption(key, given[key], names) !== undefined;
  return Object.fromEntries(Object.entries(given).filter(([key]) => isSetting(key)));
}

async function make(
  value: unknown,
  context: CurriculumFileContext,
  failure: (problem: string) => Error,
): Promise<unknown> {
  return await settled(typeof value === "function" ? (value(context) as unknown) : value, failure);
}

function neverSettles(path: string, what: string): (problem: string) => Error {
  return (problem) => new TrainError("TRAIN_FILE", `${path}: ${what}: ${problem}`);
}
