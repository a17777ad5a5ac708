import * as z from "zod";
import type { Decoder } from "../model/index.js";
import { AdamW, CombinedOptimizer, decayGroups, Muon, type Optimizer, SGD } from "../nn/index.js";
import type { Tensor } from "../torch/index.js";
import { TrainError } from "./errors.js";
import { failureOf } from "./user-code.js";

/** Makes the optimizer of a stage, for optimizers other than {@link adamw} and {@link sgd}. */
export type OptimizerFactory = (model: Decoder) => Optimizer;

const beta = z.number().min(0).lt(1);
const nonNegative = z.number().min(0);

const weightDecay = nonNegative.default(0.1);
const adamwShape = {
  betas: z.tuple([beta, beta]).default([0.9, 0.95]).describe("Decay rates of the two moments."),
  eps: nonNegative.default(1e-8).describe("Added to the root of the second moment."),
  weightDecay: weightDecay.describe("Decoupled weight decay of matrices; norms and biases have none."),
  offload: z
    .boolean()
    .default(false)
    .describe("Keep moments and float32 weights in host memory, and update them there."),
  decayEmbeddings: z.boolean().default(true).describe("Apply the weight decay to embeddings, too."),
};
const { offload: _, ...restShape } = adamwShape;
const muonShape = {
  momentum: nonNegative.default(0.95).describe("Decay rate of the momentum."),
  nesterov: z.boolean().default(true).describe("Use Nesterov's momentum."),
  nsSteps: z.number().int().min(1).max(99).default(5).describe("Number of Newton-Schulz iterations."),
  weightDecay: weightDecay.describe("Decoupled weight decay of the matrices of hidden layers."),
  adjustLrFn: z
    .enum(["original", "match_rms_adamw"])
    .default("match_rms_adamw")
    .describe(
      "Factor on the learning rate of an A x B matrix. `original`: sqrt(max(1, A / B)). `match_rms_adamw`: 0.2 sqrt(max(A, B)), " +
        "which gives updates of AdamW's size, so that both can have one learning rate.",
    ),
  nsDtype: z
    .enum(["bfloat16", "float32"])
    .default("bfloat16")
    .describe("Data type of the iterations. `float32` is faster on processors without bfloat16 instructions."),
  adamw: z
    .strictObject({
      ...restShape,
      lrScale: nonNegative.default(1).describe("Factor on the learning rate for AdamW's parameters."),
    })
    .prefault({})
    .describe("Options of AdamW for embeddings, the head, norms and biases."),
};
const sgdShape = {
  momentum: nonNegative.default(0).describe("Decay rate of the momentum."),
  nesterov: z.boolean().default(false).describe("Use Nesterov's momentum."),
  weightDecay: nonNegative.default(0).describe("L2 penalty, added to the gradient."),
};

const configSchema = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("adamw"), ...adamwShape }),
  z.strictObject({ type: z.literal("muon"), ...muonShape }),
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

export const adamwSchema = z.strictObject(adamwShape);
export const muonSchema = z.strictObject(muonShape);
export const sgdSchema = z.strictObject(sgdShape);

/** AdamW with decoupled weight decay on matrices; one fused call updates all parameters. */
export function adamw(options: z.input<typeof adamwSchema> = {}): OptimizerConfig {
  return { type: "adamw", ...adamwSchema.parse(options) };
}

/**
 * Muon for the matrices of hidden layers, AdamW for embeddings, the head, norms and biases. It needs whole matrices: parallel
 * training with `shard` or `tensor` above 1 is refused.
 */
export function muon(options: z.input<typeof muonSchema> = {}): OptimizerConfig {
  return { type: "muon", ...muonSchema.parse(options) };
}

/** Stochastic gradient descent, optionally with momentum. */
export function sgd(options: z.input<typeof sgdSchema> = {}): OptimizerConfig {
  return { type: "sgd", ...sgdSchema.parse(options) };
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
  if (choice.type === "muon") return makeMuon(choice, model);
  const { type: _, decayEmbeddings, ...options } = choice;
  return new AdamW(decayGroups(model, options.weightDecay, { embeddings: decayEmbeddings }), options);
}

function makeMuon(
  { type: _, adamw, ...options }: Extract<OptimizerConfig, { type: "muon" }>,
  model: Decoder,
): Optimizer {
  const { lrScale, decayEmbeddings, ...rest } = adamw;
  const trained = [...model.namedParameters()].filter(([, { requiresGrad }]) => requiresGrad);
  const isHidden = (name: string, tensor: Tensor) => tensor.ndim === 2 && !/embed|lm_head/.test(name);
  const matrices = trained.filter(([name, tensor]) => isHidden(name, tensor));
  const others = decayGroups(model, rest.weightDecay, { embeddings: decayEmbeddings }).map((group) => ({
    ...group,
    parameters: [...group.parameters].filter(([name, tensor]) => !isHidden(name, tensor)),
  }));
  return new CombinedOptimizer([
    ...(matrices.length > 0 ? [{ optimizer: new Muon(matrices, options) }] : []),
    ...(matrices.length < trained.length ? [{ optimizer: new AdamW(others, rest), lrScale }] : []),
  ]);
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
