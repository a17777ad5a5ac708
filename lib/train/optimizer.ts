import * as z from "zod";
import type { Decoder } from "../model/index.js";
import { AdamW, decayGroups, type Optimizer, SGD } from "../nn/index.js";
import type { ParallelModel } from "../parallel/index.js";
import { TrainError } from "./errors.js";
import { failureOf } from "./user-code.js";

/** Makes the optimizer of a stage, for optimizers other than {@link adamw} and {@link sgd}. */
export type OptimizerFactory = (model: Decoder) => Optimizer;

const beta = z.number().min(0).lt(1);
const nonNegative = z.number().min(0);

const adamwShape = {
  betas: z.tuple([beta, beta]).default([0.9, 0.95]).describe("decay rates of the two moments"),
  eps: nonNegative.default(1e-8),
  weightDecay: nonNegative.default(0.1).describe("decoupled; of matrices only, not of norms and biases"),
  offload: z.boolean().default(false).describe("moments, float32 weights and the update on the host"),
  decayEmbeddings: z.boolean().default(true).describe("whether the embedding decays too"),
};
const sgdShape = {
  momentum: nonNegative.default(0),
  nesterov: z.boolean().default(false),
  weightDecay: nonNegative.default(0),
};

const configSchema = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("adamw"), ...adamwShape }),
  z.strictObject({ type: z.literal("sgd"), ...sgdShape }),
]);

/** An optimizer in options: a config, for TypeScript and YAML alike, or a function that makes one. */
export const optimizerSchema = z.union([
  z.custom<OptimizerFactory>((value) => typeof value === "function", { error: "a function" }),
  configSchema,
]);

/** The config of an optimizer, with all defaults filled in. */
export type OptimizerConfig = z.output<typeof configSchema>;
export type OptimizerChoice = OptimizerConfig | OptimizerFactory;

const adamwOptions = z.strictObject(adamwShape);
const sgdOptions = z.strictObject(sgdShape);

/** AdamW with decoupled weight decay on matrices; one fused call updates all parameters. */
export function adamw(options: z.input<typeof adamwOptions> = {}): OptimizerConfig {
  return { type: "adamw", ...adamwOptions.parse(options) };
}

/** Stochastic gradient descent, optionally with momentum. */
export function sgd(options: z.input<typeof sgdOptions> = {}): OptimizerConfig {
  return { type: "sgd", ...sgdOptions.parse(options) };
}

/**
 * Makes the optimizer of a stage, over all parameters of the model.
 *
 * @param stage name of the stage, for the message
 * @throws TrainError TRAIN_OPTIONS if a factory function does not return an Optimizer
 */
export function makeOptimizer(choice: OptimizerChoice, model: Decoder, stage: string): Optimizer {
  if (typeof choice === "function") return ownOptimizer(choice, model, `stage '${stage}': its optimizer function`);
  if (choice.type === "sgd") {
    const { type: _, ...options } = choice;
    return new SGD(model.namedParameters(), options);
  }
  const { type: _, decayEmbeddings, ...options } = choice;
  return new AdamW(decayGroups(model, options.weightDecay, { embeddings: decayEmbeddings }), options);
}

/**
 * Rejects an optimizer that needs whole matrices if the parameters are sharded over processes.
 *
 * @throws TrainError TRAIN_OPTIONS
 */
export function requireElementwise(optimizer: Optimizer, { isWhole, shape }: ParallelModel, stage: string): void {
  if (isWhole || optimizer.elementwise === true) return;
  const { shard, tensor } = shape;
  throw new TrainError(
    "TRAIN_OPTIONS",
    `stage '${stage}': its optimizer does not declare \`elementwise: true\`, and the parameters are sharded (shard ${shard}, tensor ${tensor}): ` +
      "declare it if the update of each element depends on the gradient of that element alone, or train with shard: 1 and tensor: 1",
  );
}

const OPTIMIZER_METHODS = ["step", "zeroGrad", "stateDict", "loadStateDict", "dispose"] as const;

function ownOptimizer(make: OptimizerFactory, model: Decoder, where: string): Optimizer {
  let made: Optimizer;
  try {
    made = make(model);
  } catch (error) {
    throw failureOf("TRAIN_OPTIONS", where, error);
  }
  const missing = OPTIMIZER_METHODS.filter((name) => typeof (made as Partial<Optimizer> | null)?.[name] !== "function");
  if (missing.length === 0) return made;
  throw new TrainError("TRAIN_OPTIONS", `${where} does not return an Optimizer: it lacks ${missing.join(", ")}`);
}
