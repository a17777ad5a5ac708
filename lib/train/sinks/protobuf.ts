/**
 * Encodes the few kinds of protobuf fields that TensorBoard's and W&B's files need. A message is the concatenation of
 * its fields.
 */

const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;
const FIXED32 = 5;

/** An unsigned integer below 2^53: int64, enum, bool. */
export function integer(field: number, value: number): Buffer {
  return Buffer.concat([key(field, VARINT), varint(value)]);
}

export function double(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  return Buffer.concat([key(field, FIXED64), bytes]);
}

export function float(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return Buffer.concat([key(field, FIXED32), bytes]);
}

export function text(field: number, value: string): Buffer {
  return message(field, Buffer.from(value, "utf8"));
}

/** A nested message: its fields, preceded by their length. */
export function message(field: number, ...fields: readonly Uint8Array[]): Buffer {
  const bytes = Buffer.concat(fields);
  return Buffer.concat([key(field, BYTES), varint(bytes.length), bytes]);
}

function key(field: number, kind: number): Buffer {
  return varint(field * 8 + kind);
}

/** Seven bits per byte, lowest first. */
function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  bytes.push(rest);
  return Buffer.from(bytes);
}
