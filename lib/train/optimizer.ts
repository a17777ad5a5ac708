import * as z from "zod";
import type { Decoder } from "../model/index.js";
import { AdamW, CombinedOptimizer, decayGroups, Muon, type Optimizer, SGD } from "../nn/index.js";
import type { ParallelModel } from "../parallel/index.js";
import type { Tensor } from "../torch/index.js";
import { TrainError } from "./errors.js";
import { failureOf } from "./user-code.js";

/** Makes the optimiser of a stage. For what {@link adamw} and {@link sgd} do not offer. */
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

const { offload: _, ...restShape } = adamwShape;
const muonShape = {
  momentum: nonNegative.default(0.95).describe("decay rate of the momentum"),
  nesterov: z.boolean().default(true),
  nsSteps: z.number().int().min(1).max(99).default(5).describe("Newton-Schulz iterations"),
  weightDecay: nonNegative.default(0.1).describe("decoupled; of the matrices of hidden layers"),
  adjustLrFn: z
    .enum(["original", "match_rms_adamw"])
    .default("match_rms_adamw")
    .describe(
      "factor on the learning rate of a matrix, see torch.optim.Muon; match_rms_adamw gives updates of AdamW's size",
    ),
  nsDtype: z.enum(["bfloat16", "float32"]).default("bfloat16").describe("of the Newton-Schulz iterations"),
  adamw: z
    .strictObject({ ...restShape, lrScale: nonNegative.default(1).describe("factor on the learning rate") })
    .prefault({})
    .describe("of AdamW, for embeddings, the head, norms and biases"),
};

const configSchema = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("adamw"), ...adamwShape }),
  z.strictObject({ type: z.literal("muon"), ...muonShape }),
  z.strictObject({ type: z.literal("sgd"), ...sgdShape }),
]);

/** An optimiser in options: as data, for TypeScript and YAML alike, or a function that makes one. */
export const optimizerSchema = z.union([
  z.custom<OptimizerFactory>((value) => typeof value === "function", { error: "a function" }),
  configSchema,
]);

/** An optimiser as data, every default filled in. */
export type OptimizerConfig = z.output<typeof configSchema>;
export type OptimizerChoice = OptimizerConfig | OptimizerFactory;

const adamwOptions = z.strictObject(adamwShape);
const muonOptions = z.strictObject(muonShape);
const sgdOptions = z.strictObject(sgdShape);

/** AdamW with decoupled decay on matrices, one fused call for all parameters. */
export function adamw(options: z.input<typeof adamwOptions> = {}): OptimizerConfig {
  return { type: "adamw", ...adamwOptions.parse(options) };
}

/**
 * Muon for the matrices of hidden layers, AdamW for embeddings, the head, norms and biases. It needs whole matrices: parallel
 * training with `shard` or `tensor` above 1 is refused.
 */
export function muon(options: z.input<typeof muonOptions> = {}): OptimizerConfig {
  return { type: "muon", ...muonOptions.parse(options) };
}

/** Plain stochastic gradient descent, with momentum if asked for. */
export function sgd(options: z.input<typeof sgdOptions> = {}): OptimizerConfig {
  return { type: "sgd", ...sgdOptions.parse(options) };
}

/**
 * Makes the optimiser that a choice describes, for all of a model's parameters.
 *
 * @param stage named in the message
 * @throws TrainError TRAIN_OPTIONS for a function that makes none
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

/**
 * Refuses an optimiser that needs whole matrices where processes have parts of them.
 *
 * @throws TrainError TRAIN_OPTIONS
 */
export function requireElementwise(optimizer: Optimizer, { isWhole, shape }: ParallelModel, stage: string): void {
  if (isWhole || optimizer.elementwise === true) return;
  const { shard, tensor } = shape;
  throw new TrainError(
    "TRAIN_OPTIONS",
    `stage '${stage}': its optimizer does not say \`elementwise: true\`, and parameters are cut (shard ${shard}, tensor ${tensor}): ` +
      "declare it if each number's update depends on that number's gradient alone, or train with shard: 1 and tensor: 1",
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
