import type { AttentionPlan } from "../model/attention-plan.js";
import type { Decoder } from "../model/decoder.js";
import { itemSize } from "../torch/bytes.js";
import type { DType, Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import type { AttentionInputs, PagedAttention, Pages } from "./pass/attention.js";
import { nativeAttention, paddedAttention } from "./pass/attention.js";
import { flashAttention } from "./pass/flash-attention.js";
import { exact, layOut, type PassPart, type PassTensors, upload } from "./pass/pass.js";

// On Hopper and Blackwell libtorch prefers cuDNN's attention, which makes a new plan (some 30 ms) for every new number of
// keys, and decoding has a new one with every token. Its other kernels need no plan. Read at the first attention.
process.env.TORCH_CUDNN_SDPA_DEPRIORITIZED ??= "1";

/** How tokens attend to pages: see the files of pass/. */
export type AttentionKind = "native" | "padded" | "flash";

/** A pass as integers for the device, and what the host needs to know of it. */
export interface PassInputs extends AttentionInputs {
  /** Padding included. */
  tokens: number;
  /** Number of output rows. */
  wanted: number;
  end: number;
}

/**
 * Keys and values of all sequences in pages, two tensors per layer. For the CPU's operator [pages, hkv, d, width] and
 * [pages, hkv, width, dp] in float32, as `paged_attention` reads them; else both [pages, pageSize, hkv, d] in the model's
 * dtype.
 */
export class PagedKVCache {
  readonly pageSize: number;
  readonly #pages: Pages;
  readonly #attention: PagedAttention;

  /**
   * @param options.pages the scratch page included
   * @param options.attention default: what is best for the model's device and dtype
   */
  constructor(model: Decoder, options: { pages: number; pageSize: number; attention?: AttentionKind }) {
    const { pages, pageSize, attention = attentionFor(model) } = options;
    this.pageSize = pageSize;
    this.#attention = { native: nativeAttention, padded: paddedAttention, flash: flashAttention() }[attention];
    const { keys, values, dtype } = pageLayout(model, pageSize, attention);
    // NaN would spread through a mask. The CPU's operator reads only what was written, so its memory may stay untouched
    // until then.
    const make = attention === "native" ? torch.empty : torch.zeros;
    const allocate = (shape: number[]) => torch.keep(make([pages, ...shape], { dtype, device: model.device }));
    const layers = Array.from({ length: model.config.numLayers });
    this.#pages = { keys: layers.map(() => allocate(keys)), values: layers.map(() => allocate(values)), pageSize };
  }

  /** Bytes of one page in all layers, as the constructor makes it: padding included. */
  static bytesPerPage(model: Decoder, pageSize: number, attention = attentionFor(model)): number {
    const { keys, values, dtype } = pageLayout(model, pageSize, attention);
    const elements = [keys, values].reduce((sum, shape) => sum + shape.reduce((a, b) => a * b), 0);
    return model.config.numLayers * elements * itemSize(dtype);
  }

  /**
   * One pass over the tokens of several sequences, concatenated: everything but attention runs over [1, tokens], and each
   * token attends to the keys of its own sequence only.
   *
   * @returns the final hidden states of all output rows, in order: [rows, hiddenSize]; null when there are none
   */
  forward(model: Decoder, parts: readonly PassPart[]): Tensor | null {
    const inputs = this.describe(parts);
    const tensors = upload(inputs.lists, model.device);
    const wanted = inputs.wanted > 0;
    const hidden = this.run(model, inputs, tensors, wanted ? { rows: tensors.int64("rows") } : { queries: 1 });
    return wanted ? hidden : null;
  }

  /** The integers of a pass, its sizes rounded up. Padding writes to the scratch page only. */
  describe(parts: readonly PassPart[], rounding = exact): PassInputs {
    const pass = layOut(parts, this.pageSize, rounding);
    const { ids, positions, slots, rows, end } = pass;
    const { lists, sizes } = this.#attention.describe(pass, this.pageSize, rounding);
    return { lists: { ids, positions, slots, rows, ...lists }, sizes, tokens: ids.length, wanted: rows.length, end };
  }

  /**
   * The pass itself: operators on the device only, the same ones for every pass of a shape.
   *
   * @returns final hidden states: [1, tokens, hiddenSize], or the part that `lastLayer` selects
   */
  run(
    model: Decoder,
    { tokens, sizes, end }: PassInputs,
    tensors: PassTensors,
    lastLayer?: AttentionPlan["lastLayer"],
  ): Tensor {
    const attend = this.#attention.attend(this.#pages, tensors, sizes);
    const plan: AttentionPlan = { positions: tensors.int64("positions"), end, attend, lastLayer };
    return model.forward(tensors.int64("ids").view([1, tokens]), plan);
  }

  dispose(): void {
    for (const tensor of [...this.#pages.keys, ...this.#pages.values]) tensor.dispose();
  }
}

/** Flash attention is for 16 bits, compute capability 8.0 and newer, and heads of a multiple of 8 up to 256. */
function attentionFor({ device, config: { headDim }, embedTokens: { weight } }: Decoder): AttentionKind {
  if (device === "cpu") return "native";
  const fits = (weight.dtype === "bfloat16" || weight.dtype === "float16") && headDim % 8 === 0 && headDim <= 256;
  return fits && Number(torch.cuda.deviceProperties(deviceIndex(device)).major) >= 8 ? "flash" : "padded";
}

/** 1 of "cuda:1"; 0 of "cuda". */
export function deviceIndex(device: string): number {
  return Number(device.split(":")[1] ?? 0);
}

/** A layer's page of keys and of values, and what they are kept in: see {@link PagedKVCache}. */
function pageLayout(
  model: Decoder,
  pageSize: number,
  attention: AttentionKind,
): { keys: number[]; values: number[]; dtype: DType } {
  const { headDim } = model.config;
  const { dtype } = model.embedTokens.weight;
  // Those of this process: tensor parallelism cuts the projection by heads.
  const heads = model.layers[0].selfAttn.kProj.weight.size(0) / headDim;
  const plain = [pageSize, heads, headDim];
  if (attention !== "native") return { keys: plain, values: plain, dtype };
  const width = roundUp(pageSize, 16);
  return {
    keys: [heads, headDim, width],
    values: [heads, width, roundUp(headDim, 16)],
    // The CPU's operator computes in the dtype of the cache, whatever the weights' dtype.
    dtype: dtype === "float64" ? dtype : "float32",
  };
}

function roundUp(n: number, multiple: number): number {
  return Math.ceil(n / multiple) * multiple;
}
