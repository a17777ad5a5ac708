import type { FactoryOptions } from "../nn/index.js";
import { Embedding, functional, init, type LayerOptions, Linear, Module, RMSNorm } from "../nn/index.js";
import type { Generator, Tensor } from "../torch/index.js";
import { architectureSpec } from "./architectures/index.js";
import type { AttentionPlan } from "./attention-plan.js";
import type { DecoderConfig } from "./config.js";
import { ModelConfigError } from "./errors.js";
import { RotaryTables } from "./rotary.js";

/** Rotary cosines and sines of the positions of a forward pass. */
export interface RotaryAngles {
  cos: Tensor;
  sin: Tensor;
}

/**
 * State between layers: the residual stream, and the output of the last branch, which is not yet added to it. The next
 * norm does the addition, so that both take one pass over memory.
 */
export interface Hidden {
  residual: Tensor;
  branch: Tensor | null;
}

/** Grouped-query self-attention. The plan implements the attention pattern. */
export class Attention extends Module {
  readonly qProj: Linear;
  readonly kProj: Linear;
  readonly vProj: Linear;
  readonly oProj: Linear;
  /** Norms of q and k per head, before the rotary embedding; null if the architecture has none. */
  readonly qNorm: RMSNorm | null;
  readonly kNorm: RMSNorm | null;
  readonly headDim: number;

  constructor(config: DecoderConfig, options: LayerOptions) {
    super();
    const { architecture, hiddenSize, numHeads, numKeyValueHeads, headDim, attentionBias, rmsNormEps } = config;
    const inputBias = { ...options, bias: attentionBias !== "none" };
    this.headDim = headDim;
    this.qProj = new Linear(hiddenSize, numHeads * headDim, inputBias);
    this.kProj = new Linear(hiddenSize, numKeyValueHeads * headDim, inputBias);
    this.vProj = new Linear(hiddenSize, numKeyValueHeads * headDim, inputBias);
    this.oProj = new Linear(numHeads * headDim, hiddenSize, { ...options, bias: attentionBias === "qkvo" });
    const { qkNorm } = architectureSpec(architecture);
    this.qNorm = qkNorm ? new RMSNorm(headDim, { ...options, eps: rmsNormEps }) : null;
    this.kNorm = qkNorm ? new RMSNorm(headDim, { ...options, eps: rmsNormEps }) : null;
  }

  /** x [b, s, D] -> [b, s, D], or [b, queries, D] or [n, D] if `wanted` selects a part. */
  forward(
    x: Tensor,
    plan: AttentionPlan,
    layer: number,
    { cos, sin }: RotaryAngles,
    wanted: AttentionPlan["lastLayer"] = {},
  ): Tensor {
    const [b, s] = x.shape;
    const { queries = s, rows } = wanted;
    const partly = queries < s;
    const asking = partly ? x.narrow(1, 0, queries) : x;
    const q = normHeads(this.qNorm, this.qProj.forward(asking).view([b, queries, -1, this.headDim]));
    const k = normHeads(this.kNorm, this.kProj.forward(x).view([b, s, -1, this.headDim]));
    const v = this.vProj.forward(x).view([b, s, -1, this.headDim]);
    const [askingCos, askingSin] = partly ? [cos.narrow(-2, 0, queries), sin.narrow(-2, 0, queries)] : [cos, sin];
    const turnedQ = functional.rotary(q, askingCos, askingSin);
    const turnedK = functional.rotary(k, cos, sin);
    const attended = plan.attend(layer, turnedQ, turnedK, v);
    const flat = rows ? attended.reshape([b * queries, -1]).indexSelect(0, rows) : attended.flatten(-2);
    return this.oProj.forward(flat);
  }
}

function normHeads(norm: RMSNorm | null, heads: Tensor): Tensor {
  return norm ? norm.forward(heads) : heads;
}

/** SwiGLU feed-forward: down(silu(gate(x)) * up(x)), any leading shape. */
export class MLP extends Module {
  readonly gateProj: Linear;
  readonly upProj: Linear;
  readonly downProj: Linear;

  constructor({ hiddenSize, intermediateSize }: DecoderConfig, options: LayerOptions) {
    super();
    const plain = { ...options, bias: false };
    this.gateProj = new Linear(hiddenSize, intermediateSize, plain);
    this.upProj = new Linear(hiddenSize, intermediateSize, plain);
    this.downProj = new Linear(intermediateSize, hiddenSize, plain);
  }

  forward(x: Tensor): Tensor {
    return this.downProj.forward(functional.swiglu(this.gateProj.forward(x), this.upProj.forward(x)));
  }
}

/** One pre-norm block: attention, then feed-forward. */
export class DecoderLayer extends Module {
  readonly inputLayernorm: RMSNorm;
  readonly selfAttn: Attention;
  readonly postAttentionLayernorm: RMSNorm;
  readonly mlp: MLP;

  constructor(config: DecoderConfig, options: LayerOptions) {
    super();
    const norm = { ...options, eps: config.rmsNormEps };
    this.inputLayernorm = new RMSNorm(config.hiddenSize, norm);
    this.selfAttn = new Attention(config, options);
    this.postAttentionLayernorm = new RMSNorm(config.hiddenSize, norm);
    this.mlp = new MLP(config, options);
  }

  forward(
    hidden: Hidden,
    plan: AttentionPlan,
    layer: number,
    angles: RotaryAngles,
    wanted: AttentionPlan["lastLayer"] = {},
  ): Hidden {
    const [normed, stream] = addAndNorm(this.inputLayernorm, hidden);
    const attended = this.selfAttn.forward(normed, plan, layer, angles, wanted);
    const [mlpInput, residual] = this.postAttentionLayernorm.addForward(attended, keepWanted(stream, wanted));
    return { residual, branch: this.mlp.forward(mlpInput) };
  }
}

/** Options of {@link Decoder.crossEntropy}. */
export interface CrossEntropyOptions {
  /** float32 [n], weights of the rows; default 1. */
  rowWeights?: Tensor;
  /** Number of rows whose logits are computed at a time; default 1024. */
  chunkSize?: number;
}

/** Options of {@link Decoder}. */
export interface DecoderOptions extends FactoryOptions {
  /** Random generator of the initial weights. */
  generator?: Generator;
  /** false: leaves the weights uninitialized, for loading. Default true. */
  init?: boolean;
}

/**
 * Seed-Coder's architecture, which is Llama's: token embedding, pre-norm blocks of grouped-query attention and SwiGLU
 * with rotary positions, final norm, and a head that may share the embedding's weight. The differences of other
 * architectures, such as biases or norms of q and k, are in ./architectures. Property names are those of Hugging Face
 * checkpoints in camelCase.
 */
export class Decoder extends Module {
  readonly config: DecoderConfig;
  readonly embedTokens: Embedding;
  readonly layers: DecoderLayer[];
  readonly norm: RMSNorm;
  /** null if the head shares the embedding's weight. */
  readonly lmHead: Linear | null;
  #rotary: RotaryTables | null;

  constructor(config: DecoderConfig, options: DecoderOptions = {}) {
    super();
    const { init: initialise = true, generator, dtype, device = "cpu" } = options;
    const empty: LayerOptions = { dtype, device, init: false };
    this.config = config;
    this.embedTokens = new Embedding(config.vocabSize, config.hiddenSize, empty);
    this.layers = Array.from({ length: config.numLayers }, () => new DecoderLayer(config, empty));
    this.norm = new RMSNorm(config.hiddenSize, { ...empty, eps: config.rmsNormEps });
    this.lmHead = config.tieWordEmbeddings
      ? null
      : new Linear(config.hiddenSize, config.vocabSize, { ...empty, bias: false });
    this.#rotary = makeTables(config, device);
    if (initialise) initializeDecoder(this, generator);
  }

  /** The device of the weights. */
  get device(): string {
    return this.embedTokens.weight.device;
  }

  /** The head's weight [vocabSize, hiddenSize]. */
  get headWeight(): Tensor {
    return this.lmHead ? this.lmHead.weight : this.embedTokens.weight;
  }

  /**
   * Final hidden states of token ids, after the last norm.
   *
   * @param ids int64 [b, s]
   * @returns [b, s, hiddenSize]; [b, queries, hiddenSize] or [n, hiddenSize] if the plan selects a part
   */
  forward(ids: Tensor, plan: AttentionPlan): Tensor {
    const angles = this.rotary(plan);
    const last = this.layers.length - 1;
    let hidden = this.embed(ids);
    for (const [i, layer] of this.layers.entries()) {
      hidden = layer.forward(hidden, plan, i, angles, i === last ? plan.lastLayer : undefined);
    }
    return this.finish(hidden);
  }

  /** First segment of {@link forward}: ids int64 [b, s] -> embeddings. */
  embed(ids: Tensor): Hidden {
    return { residual: this.embedTokens.forward(ids), branch: null };
  }

  /** Last segment of {@link forward}: the final norm. */
  finish(hidden: Hidden): Tensor {
    return addAndNorm(this.norm, hidden)[0];
  }

  /** The rotary angles of a plan's positions, which every layer of a forward pass shares. */
  rotary(plan: AttentionPlan): RotaryAngles {
    this.#rotary ??= new RotaryTables(this.config, this.device);
    return this.#rotary.at(plan.positions, plan.end);
  }

  /** Logits [..., vocabSize] of final hidden states [..., hiddenSize]. */
  logits(hidden: Tensor): Tensor {
    return functional.linear(hidden, this.headWeight);
  }

  /**
   * Cross-entropy of targets at final hidden states [n, hiddenSize], without materializing all logits. Objectives use
   * this method instead of the head's weight, so that they work unchanged when a rank holds only a part of the hidden
   * states.
   *
   * @param targets int64 [n]
   * @returns loss = sum(rowWeights * nll), a differentiable scalar, and nll float32 [n], detached
   */
  crossEntropy(hidden: Tensor, targets: Tensor, options: CrossEntropyOptions = {}): { loss: Tensor; nll: Tensor } {
    return functional.linearCrossEntropy(hidden, this.headWeight, targets, options);
  }

  override to(options: FactoryOptions): this {
    super.to(options);
    this.#rotary?.dispose();
    this.#rotary = makeTables(this.config, this.device);
    return this;
  }

  override dispose(): void {
    super.dispose();
    this.#rotary?.dispose();
    this.#rotary = null;
  }
}

// Created with the weights, not at first use: tensors created in inference mode could not be used in training later.
function makeTables(config: DecoderConfig, device: string): RotaryTables | null {
  return device === "meta" ? null : new RotaryTables(config, device);
}

function addAndNorm(norm: RMSNorm, { residual, branch }: Hidden): [normed: Tensor, sum: Tensor] {
  return branch ? norm.addForward(branch, residual) : [norm.forward(residual), residual];
}

function keepWanted(residual: Tensor, { queries, rows }: NonNullable<AttentionPlan["lastLayer"]>): Tensor {
  const s = residual.size(1);
  const asking = queries ?? s;
  if (!rows) return asking < s ? residual.narrow(1, 0, asking) : residual;
  // Rows are indices into the query positions; selecting them from all positions directly avoids a copy of the query
  // positions.
  const among = asking < s ? rows.add(rows.div(asking, { roundingMode: "floor" }), { alpha: s - asking }) : rows;
  return residual.flatten(0, 1).indexSelect(0, among);
}

/**
 * Initializes a decoder's weights: N(0, initializerRange^2) for embeddings and matrices, with the two projections that
 * write into the residual stream divided by sqrt(2 layers), so that the stream's variance does not grow with depth
 * (GPT-2); ones for norms, zeros for biases.
 */
export function initializeDecoder(model: Decoder, generator?: Generator): void {
  const std = model.config.initializerRange;
  const residualStd = std / Math.sqrt(2 * model.config.numLayers);
  for (const [name, tensor] of model.namedParameters()) {
    if (/norm\.weight$/i.test(name)) init.constant_(tensor, 1);
    else if (name.endsWith(".bias")) init.constant_(tensor, 0);
    else if (/\.(oProj|downProj)\.weight$/.test(name)) init.normal_(tensor, { std: residualStd, generator });
    else init.normal_(tensor, { std, generator });
  }
}

/** Number of parameters of a config, from its decoder on the meta device. */
export function countParameters(config: DecoderConfig): number {
  const model = new Decoder(config, { device: "meta", init: false });
  try {
    return model.numParameters();
  } finally {
    model.dispose();
  }
}

/**
 * The matrices of a decoder's layers that may be quantized or adapted, from its architecture, layer by layer:
 * `layers.0.selfAttn.qProj` and so on.
 *
 * @throws ModelError MODEL_CONFIG if a layer has no such matrix
 */
export function layerMatrices(model: Decoder): [path: string, matrix: Linear][] {
  const { architecture } = model.config;
  const { layerMatrices: paths } = architectureSpec(architecture);
  return model.layers.flatMap((layer, i) => {
    const modules = new Map(layer.namedModules());
    return paths.map((path): [string, Linear] => {
      const matrix = modules.get(path);
      if (matrix instanceof Linear) return [`layers.${i}.${path}`, matrix];
      const found = matrix ? `a ${matrix.constructor.name}` : "missing";
      throw new ModelConfigError(`${architecture} names the matrix layers.${i}.${path}, which is ${found}`);
    });
  });
}
