import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** What a test needs of an Event. Written from the formats' description, apart from the sink's own encoder. */
export interface ReadEvent {
  time: number;
  step: number;
  version?: string;
  isStart: boolean;
  scalars: Record<string, number>;
  texts: Record<string, string>;
  /** Tags of hparams summaries with the plugin's bytes. */
  plugins: Record<string, Buffer>;
}

type Fields = { field: number; value: number | Buffer }[];

/** Fields of a protobuf message: fixed numbers as bytes, too. */
export function fieldsOf(message: Buffer): Fields {
  const fields: Fields = [];
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const byte = message[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < message.length) {
    const key = varint();
    const [field, kind] = [Math.floor(key / 8), key % 8];
    if (kind === 0) fields.push({ field, value: varint() });
    else {
      const length = kind === 1 ? 8 : kind === 5 ? 4 : kind === 2 ? varint() : Number.NaN;
      if (Number.isNaN(length) || at + length > message.length) throw new Error(`bad field ${field} of kind ${kind}`);
      fields.push({ field, value: message.subarray(at, at + length) });
      at += length;
    }
  }
  return fields;
}

const all = (message: Buffer, field: number) =>
  fieldsOf(message).flatMap((each) => (each.field === field ? [each.value] : []));
const bytes = (message: Buffer, field: number) => all(message, field)[0] as Buffer | undefined;

export function readEvent(data: Buffer): ReadEvent {
  const event: ReadEvent = {
    time: (bytes(data, 1) as Buffer).readDoubleLE(),
    step: (all(data, 2)[0] as number | undefined) ?? 0,
    version: bytes(data, 3)?.toString(),
    isStart: bytes(data, 7) !== undefined && all(bytes(data, 7) as Buffer, 1)[0] === 1,
    scalars: {},
    texts: {},
    plugins: {},
  };
  for (const value of all(bytes(data, 5) ?? Buffer.alloc(0), 1) as Buffer[]) {
    const tag = String(bytes(value, 1));
    const scalar = bytes(value, 2);
    const plugin = bytes(bytes(value, 9) ?? Buffer.alloc(0), 1);
    const name = plugin && bytes(plugin, 1)?.toString();
    if (scalar) event.scalars[tag] = scalar.readFloatLE();
    else if (name === "text") event.texts[tag] = String(bytes(bytes(value, 8) as Buffer, 8));
    else if (plugin) event.plugins[tag] = bytes(plugin, 2) ?? Buffer.alloc(0);
  }
  return event;
}

/** Events of a file; the checksums are checked by `checksum`. */
export function readRecords(file: Buffer, checksum: (bytes: Buffer) => number): ReadEvent[] {
  const events: ReadEvent[] = [];
  for (let at = 0; at < file.length; ) {
    const length = Number(file.readBigUInt64LE(at));
    const data = file.subarray(at + 12, at + 12 + length);
    const isGood =
      file.readUInt32LE(at + 8) === checksum(file.subarray(at, at + 8)) &&
      file.readUInt32LE(at + 12 + length) === checksum(data);
    if (!isGood) throw new Error(`bad checksum at ${at}`);
    events.push(readEvent(data));
    at += length + 16;
  }
  return events;
}

export function eventFiles(folder: string): string[] {
  const names = readdirSync(folder).filter((name) => name.startsWith("events.out.tfevents."));
  return names.sort().map((name) => join(folder, name));
}

/** Each tag's points as TensorBoard shows them: a START takes back those of its step and later ones. */
export function curves(folder: string, checksum: (bytes: Buffer) => number): Record<string, [number, number][]> {
  let points: { tag: string; step: number; value: number }[] = [];
  for (const path of eventFiles(folder)) {
    for (const event of readRecords(readFileSync(path), checksum)) {
      if (event.isStart) points = points.filter(({ step }) => step < event.step);
      for (const [tag, value] of Object.entries(event.scalars)) points.push({ tag, step: event.step, value });
    }
  }
  const byTag: Record<string, [number, number][]> = {};
  for (const { tag, step, value } of points) byTag[tag] = [...(byTag[tag] ?? []), [step, value]];
  return byTag;
}
