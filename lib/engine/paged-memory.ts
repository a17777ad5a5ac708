import type { AttentionPlan } from "../model/attention-plan.js";
import type { Decoder } from "../model/decoder.js";
import { itemSize } from "../torch/bytes.js";
import type { DType, Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";

/** A sequence's part of a pass: tokens from .. to, after `pages`' tokens before them. */
export interface PassPart {
  readonly from: number;
  readonly to: number;
  /** Tokens before this have their keys and values already: they are not written again. */
  readonly stored: number;
  readonly pages: readonly number[];
  readonly tokens: Int32Array;
  /** How many keys the token at a position sees. */
  visible(position: number): number;
  /** Positions whose hidden states are wanted, within from .. to. */
  readonly rows: readonly number[];
}

/**
 * Keys and values of all sequences in pages, two tensors per layer. On the CPU [pages, hkv, d, width] and
 * [pages, hkv, width, dp] in float32, as the operator `paged_attention` reads them; elsewhere both
 * [pages, pageSize, hkv, d] in the model's dtype.
 */
export class PagedMemory {
  readonly pageSize: number;
  readonly #native: boolean;
  readonly #keys: Tensor[];
  readonly #values: Tensor[];

  /**
   * @param options.pages the scratch page included
   * @param options.native whether to use the CPU's operator; default: on the CPU
   */
  constructor(model: Decoder, options: { pages: number; pageSize: number; native?: boolean }) {
    const { pages, pageSize } = options;
    const { device } = model;
    this.pageSize = pageSize;
    this.#native = options.native ?? device === "cpu";
    const { keys, values, dtype } = pageLayout(model, pageSize, this.#native);
    // Padded attention reads behind a mask, where NaN would still count; the operator reads only what was written, so the
    // system need not give it memory before that.
    const make = this.#native ? torch.empty : torch.zeros;
    const allocate = (shape: number[]) => torch.keep(make(shape, { dtype, device }));
    const { numLayers } = model.config;
    this.#keys = Array.from({ length: numLayers }, () => allocate([pages, ...keys]));
    this.#values = Array.from({ length: numLayers }, () => allocate([pages, ...values]));
  }

  /** Bytes of one page in all layers, as the constructor makes it: padding included. */
  static bytesPerPage(model: Decoder, pageSize: number, native = model.device === "cpu"): number {
    const { keys, values, dtype } = pageLayout(model, pageSize, native);
    const elements = [keys, values].reduce((sum, shape) => sum + shape.reduce((a, b) => a * b), 0);
    return model.config.numLayers * elements * itemSize(dtype);
  }

  /**
   * One pass over the tokens of several sequences, concatenated: everything but attention runs over [1, tokens], and each
   * token attends to the keys of its own sequence only.
   *
   * @returns the final hidden states of all wanted rows, in order: [rows, hiddenSize]; null when none is wanted
   */
  forward(model: Decoder, parts: readonly PassPart[]): Tensor | null {
    const pass = layOut(parts, this.pageSize);
    const [ids, positions, slots, rows] = upload([pass.ids, pass.positions, pass.slots, pass.rows], model.device);
    const plan: AttentionPlan = {
      positions,
      end: pass.end,
      attend: this.#native ? this.#attend(pass, slots) : this.#attendPadded(pass, slots, model.device),
      lastLayer: pass.rows.length > 0 ? { rows } : { queries: 1 },
    };
    const hidden = model.forward(ids.view([1, pass.ids.length]), plan);
    return pass.rows.length > 0 ? hidden : null;
  }

  /** One operator writes the new keys and values and reads the pages where they are. */
  #attend(pass: Pass, slots: Tensor): AttentionPlan["attend"] {
    const table = torch.tensor(pass.table).view([pass.starts.length - 1, -1]);
    const starts = torch.tensor(pass.starts);
    const visible = torch.tensor(pass.visible);
    const { paged_attention: attend } = torch.ops.diffcoder;
    return (layer, q, k, v) => {
      const [keys, values] = [this.#keys[layer], this.#values[layer]];
      return attend(q, k, v, keys, values, slots, table, starts, visible, this.pageSize, null) as Tensor;
    };
  }

  /** On other devices the pages are gathered, and sequences padded to the longest: a few operators for the whole batch. */
  #attendPadded(pass: Pass, slots: Tensor, device: string): AttentionPlan["attend"] {
    const { table, starts, visible } = pass;
    const sequences = starts.length - 1;
    const pagesEach = table.length / sequences;
    const counts = Array.from({ length: sequences }, (_, s) => starts[s + 1] - starts[s]);
    const widest = Math.max(...counts);
    const keys = pagesEach * this.pageSize;
    const queryAt = new Int32Array(sequences * widest);
    const seen = new Int32Array(sequences * widest).fill(1);
    const backAt = new Int32Array(pass.ids.length);
    for (let s = 0; s < sequences; s++) {
      for (let i = 0; i < counts[s]; i++) {
        queryAt[s * widest + i] = starts[s] + i;
        seen[s * widest + i] = visible[starts[s] + i];
        backAt[starts[s] + i] = s * widest + i;
      }
    }
    const [pageIds, queries, limits, back] = upload([table, queryAt, seen, backAt], device);
    const mask = torch
      .arange(keys, { dtype: "int64", device })
      .lt(limits.view([sequences, 1, widest, 1]))
      .view([sequences, 1, widest, keys]);
    const gather = (memory: Tensor, heads: number, width: number) =>
      memory.indexSelect(0, pageIds).view([sequences, keys, heads, width]).transpose(1, 2);
    return (layer, q, k, v) => {
      const [, asked, heads, width] = q.shape;
      const keyHeads = k.size(2);
      this.#keys[layer].view([-1, keyHeads, width]).indexCopy_(0, slots, k.view([-1, keyHeads, width]));
      this.#values[layer].view([-1, keyHeads, width]).indexCopy_(0, slots, v.view([-1, keyHeads, width]));
      // A pass for keys alone asks for one row in the last layer, whose value nobody reads.
      if (asked < pass.ids.length) return q;
      const rows = q
        .view([-1, heads, width])
        .indexSelect(0, queries)
        .view([sequences, widest, heads, width])
        .transpose(1, 2);
      const [heldKeys, heldValues] = [this.#keys, this.#values].map((all) => gather(all[layer], keyHeads, width));
      const out = torch.scaledDotProductAttention(rows, heldKeys, heldValues, mask, 0, false, { enableGqa: true });
      return out.transpose(1, 2).reshape([-1, heads, width]).indexSelect(0, back).view([1, -1, heads, width]);
    };
  }

  dispose(): void {
    for (const tensor of [...this.#keys, ...this.#values]) tensor.dispose();
  }
}

/** A layer's page of keys and of values, and what they are kept in: see {@link PagedMemory}. */
function pageLayout(
  model: Decoder,
  pageSize: number,
  native: boolean,
): { keys: number[]; values: number[]; dtype: DType } {
  const { numKeyValueHeads: heads, headDim } = model.config;
  const { dtype } = model.embedTokens.weight;
  const plain = [pageSize, heads, headDim];
  if (!native) return { keys: plain, values: plain, dtype };
  const width = roundUp(pageSize, 16);
  return {
    keys: [heads, headDim, width],
    values: [heads, width, roundUp(headDim, 16)],
    // The CPU's operator reads what it computes in, whatever the weights' dtype.
    dtype: dtype === "float64" ? dtype : "float32",
  };
}

function roundUp(n: number, multiple: number): number {
  return Math.ceil(n / multiple) * multiple;
}

/** A pass in numbers, per token but for the table. */
interface Pass {
  ids: Int32Array;
  positions: Int32Array;
  /** page * pageSize + offset to write to. */
  slots: Int32Array;
  visible: Int32Array;
  /** Wanted tokens, counted over the whole pass. */
  rows: Int32Array;
  /** Where each sequence's tokens begin, and the end. */
  starts: Int32Array;
  /** Pages by sequence, [sequences, most], padded with the scratch page. */
  table: Int32Array;
  end: number;
}

function layOut(parts: readonly PassPart[], pageSize: number): Pass {
  const starts = new Int32Array(parts.length + 1);
  for (const [s, { from, to }] of parts.entries()) starts[s + 1] = starts[s] + to - from;
  const count = starts[parts.length];
  const pagesOf = ({ to }: PassPart) => Math.ceil(to / pageSize);
  const most = Math.max(...parts.map(pagesOf));
  const pass: Pass = {
    ids: new Int32Array(count),
    positions: new Int32Array(count),
    slots: new Int32Array(count),
    visible: new Int32Array(count),
    rows: new Int32Array(parts.reduce((sum, part) => sum + part.rows.length, 0)),
    starts,
    table: new Int32Array(parts.length * most),
    end: Math.max(...parts.map((part) => part.to)),
  };
  let row = 0;
  for (const [s, part] of parts.entries()) {
    const { from, to, stored, pages, tokens } = part;
    let at = starts[s];
    for (let position = from; position < to; position++, at++) {
      pass.ids[at] = tokens[position];
      pass.positions[at] = position;
      const page = position < stored ? 0 : pages[Math.floor(position / pageSize)];
      pass.slots[at] = page * pageSize + (position % pageSize);
      pass.visible[at] = part.visible(position);
    }
    for (const position of part.rows) pass.rows[row++] = starts[s] + position - from;
    const used = pagesOf(part);
    for (let i = 0; i < used; i++) pass.table[s * most + i] = pages[i];
  }
  return pass;
}

/** Integer lists to the device in one transfer, as int64. */
function upload(lists: readonly Int32Array[], device: string): Tensor[] {
  const lengths = lists.map((list) => list.length);
  const packed = new Int32Array(lengths.reduce((sum, length) => sum + length, 0));
  let at = 0;
  for (const list of lists) {
    packed.set(list, at);
    at += list.length;
  }
  const pinMemory = device.startsWith("cuda");
  return torch.tensor(packed, { device, pinMemory }).to({ dtype: "int64" }).split(lengths) as Tensor[];
}
