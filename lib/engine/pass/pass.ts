import type { Tensor } from "../../torch/index.js";
import * as torch from "../../torch/index.js";

/** A sequence's part of a pass: tokens from .. to, after `pages`' tokens before them. */
export interface PassPart {
  readonly from: number;
  readonly to: number;
  /** The keys and values of tokens before this are stored: they are not written again. */
  readonly stored: number;
  readonly pages: readonly number[];
  readonly tokens: Int32Array;
  /** How many keys the token at a position sees. */
  visible(position: number): number;
  /** Positions whose hidden states are output, within from .. to. */
  readonly rows: readonly number[];
}

/** A pass as integers: the tokens of all sequences, concatenated. */
export interface Pass {
  ids: Int32Array;
  positions: Int32Array;
  /** page * pageSize + offset to write to. */
  slots: Int32Array;
  /** How many keys a token sees. */
  visible: Int32Array;
  /** Indices of the output tokens in the whole pass. */
  rows: Int32Array;
  /** Where each sequence's tokens begin, and the end of the last. Tokens after that are padding. */
  starts: Int32Array;
  /** The pages that each sequence reads. */
  pages: readonly (readonly number[])[];
  /** One more than the largest position. */
  end: number;
}

/** The page to which padding is written, and tokens whose keys and values are stored already. No sequence owns it. */
export const SCRATCH = 0;

/** How the sizes of a pass are rounded up, so that passes come in few shapes. */
export interface Rounding {
  /** For sizes whose cost is proportional: tokens, and pages that are copied. */
  fine(count: number): number;
  /** For sizes whose padding is cheap. */
  coarse(count: number): number;
}

/** Nothing is rounded. */
export const exact: Rounding = { fine: (count) => count, coarse: (count) => count };

/**
 * Few shapes: fine sizes in steps of a quarter of a power of two and of at least 8, which matrix products round up to
 * anyway; coarse ones in powers of two.
 */
export const bucketed: Rounding = {
  fine: (count) => {
    const step = Math.max(8, 2 ** Math.floor(Math.log2(Math.max(1, count))) / 4);
    return Math.ceil(count / step) * step;
  },
  coarse: (count) => 2 ** Math.ceil(Math.log2(Math.max(1, count))),
};

/** Concatenates the parts of a pass. Padding is token 0 at position 0, and is written to the scratch page. */
export function layOut(parts: readonly PassPart[], pageSize: number, rounding = exact): Pass {
  const starts = new Int32Array(parts.length + 1);
  for (const [s, { from, to }] of parts.entries()) starts[s + 1] = starts[s] + to - from;
  const held = starts[parts.length];
  const count = rounding.fine(held);
  const pass: Pass = {
    ids: new Int32Array(count),
    positions: new Int32Array(count),
    slots: new Int32Array(count),
    visible: new Int32Array(count).fill(1),
    rows: new Int32Array(parts.reduce((sum, part) => sum + part.rows.length, 0)),
    starts,
    pages: parts.map(({ pages, to }) => pages.slice(0, Math.ceil(to / pageSize))),
    end: Math.max(...parts.map((part) => part.to)),
  };
  let row = 0;
  for (const [s, part] of parts.entries()) {
    const { from, to, stored, pages, tokens, rows } = part;
    let at = starts[s];
    for (let position = from; position < to; position++, at++) {
      pass.ids[at] = tokens[position];
      pass.positions[at] = position;
      const page = position < stored ? SCRATCH : pages[Math.floor(position / pageSize)];
      pass.slots[at] = page * pageSize + (position % pageSize);
      pass.visible[at] = part.visible(position);
    }
    for (const position of rows) pass.rows[row++] = starts[s] + position - from;
  }
  for (let at = held; at < count; at++) pass.slots[at] = SCRATCH * pageSize + (at % pageSize);
  return pass;
}

/** The sequences' pages as a table [sequences, width], row after row, with the scratch page where there are no more. */
export function pageTable(pages: Pass["pages"], width: number, rows = pages.length): Int32Array {
  const table = new Int32Array(rows * width).fill(SCRATCH);
  for (const [s, own] of pages.entries()) table.set(own, s * width);
  return table;
}

/** The largest number of pages of a sequence. */
export function mostPages(pages: Pass["pages"]): number {
  return Math.max(...pages.map((own) => own.length));
}

/** Integers of a pass for the device: lists by name, each integer below 2^31. */
export type IntegerLists = Readonly<Record<string, Int32Array>>;

/** The lists on the device, as views of one tensor. */
export interface PassTensors {
  int32(name: string): Tensor;
  int64(name: string): Tensor;
}

/** Concatenates the lists, so that one transfer copies them all. */
export function pack(lists: IntegerLists): Int32Array {
  const all = Object.values(lists);
  const packed = new Int32Array(all.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const list of all) {
    packed.set(list, at);
    at += list.length;
  }
  return packed;
}

/** The lists in a packed int32 tensor. */
export function unpack(packed: Tensor, lists: IntegerLists): PassTensors {
  const wide = packed.to({ dtype: "int64" });
  const places = new Map<string, readonly [at: number, length: number]>();
  let at = 0;
  for (const [name, { length }] of Object.entries(lists)) {
    places.set(name, [at, length]);
    at += length;
  }
  const part = (tensor: Tensor) => (name: string) => tensor.narrow(0, ...(places.get(name) ?? ([0, 0] as const)));
  return { int32: part(packed), int64: part(wide) };
}

/** Packed lists in page-locked host memory, from which a copy to the device is asynchronous. */
export function stage(lists: IntegerLists, device: string): Tensor {
  return torch.tensor(pack(lists), { pinMemory: device.startsWith("cuda") });
}

/** The lists on the device, by one transfer. */
export function upload(lists: IntegerLists, device: string): PassTensors {
  return unpack(torch.tensor(pack(lists), { device, pinMemory: device.startsWith("cuda") }), lists);
}
