import { mkdirSync, readdirSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { AppendFile } from "../append-file.js";
import * as proto from "../protobuf.js";

const NAME = /^events\.out\.tfevents\.(\d+)\./;

/** A new event file in a folder. TensorBoard reads the files of a folder in the order of their names. */
export class EventFile {
  readonly path: string;
  /** Whether the folder had no event files before. */
  readonly isFirst: boolean;
  readonly #file: AppendFile;

  constructor(folder: string) {
    mkdirSync(folder, { recursive: true });
    const before = readdirSync(folder).flatMap((name) => NAME.exec(name)?.[1] ?? []);
    this.isFirst = before.length === 0;
    // The name must sort after every existing file, even one created in this second or by a clock that runs ahead.
    const stamp = Math.max(Math.floor(Date.now() / 1000), ...before.map((stamp) => Number(stamp) + 1));
    this.path = join(folder, `events.out.tfevents.${String(stamp).padStart(10, "0")}.${hostname()}.${process.pid}.0`);
    this.#file = new AppendFile(this.path, "ax+");
  }

  /** Appends events of a step, which readers see immediately. */
  append(step: number, ...contents: readonly EventContent[]): void {
    const time = Date.now() / 1000;
    this.#file.append(Buffer.concat(contents.map((content) => record(encodeEvent(time, step, content)))));
  }

  /** Waits until everything is on the disk. */
  flush(): void {
    this.#file.flush();
  }

  close(): void {
    this.#file.close();
  }
}

/** A record of a TFRecord file: its length in eight bytes, their checksum, the data, and the checksum of the data. */
export function record(data: Uint8Array): Buffer {
  const bytes = Buffer.alloc(data.length + 16);
  bytes.writeUInt32LE(data.length % 2 ** 32, 0);
  bytes.writeUInt32LE(Math.floor(data.length / 2 ** 32), 4);
  bytes.writeUInt32LE(maskedCrc32c(bytes.subarray(0, 8)), 8);
  bytes.set(data, 12);
  bytes.writeUInt32LE(maskedCrc32c(data), 12 + data.length);
  return bytes;
}

const POLYNOMIAL = 0x82f63b78; // Castagnoli's, bits reversed

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
  return crc;
});

/** CRC-32C of bytes (RFC 3720, appendix B.4), as an unsigned integer. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/**
 * The masked checksum of TFRecord files: rotated, plus a constant, because a CRC of data that contains CRCs is weak.
 */
export function maskedCrc32c(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

/** Contents of a TensorBoard Event. Field numbers are those of TensorFlow's event.proto and summary.proto. */
export type EventContent =
  | { kind: "version" }
  /** The run resumes: earlier points of this step and later ones are superseded. */
  | { kind: "start" }
  | { kind: "scalars"; values: Readonly<Record<string, number>> }
  /** Markdown, shown in the tab "Text". */
  | { kind: "text"; tag: string; text: string }
  /** Settings of the run, shown in the tab "HParams". */
  | { kind: "hparams"; values: Readonly<Record<string, string | number>>; name: string; startedAt: number }
  | { kind: "session-end"; status: keyof typeof STATUS; endedAt: number };

/** Status codes of the hparams plugin. */
const STATUS = { success: 1, failure: 2 } as const;

/** The protobuf bytes of an Event. @param time seconds since 1970 */
export function encodeEvent(time: number, step: number, content: EventContent): Buffer {
  return Buffer.concat([proto.double(1, time), ...(step > 0 ? [proto.integer(2, step)] : []), encode(content)]);
}

const SESSION_START = 1;
const DT_FLOAT = 1;
const DT_STRING = 7;

function encode(content: EventContent): Buffer {
  switch (content.kind) {
    case "version":
      return proto.text(3, "brain.Event:2");
    case "start":
      return proto.message(7, proto.integer(1, SESSION_START));
    case "scalars": {
      const values = Object.entries(content.values).map(([tag, value]) =>
        proto.message(1, proto.text(1, tag), proto.float(2, value)),
      );
      return proto.message(5, ...values);
    }
    case "text":
      return summary(content.tag, plugin("text"), [
        proto.integer(1, DT_STRING),
        proto.message(2, proto.message(2, proto.integer(1, 1))), // shape [1]
        proto.text(8, content.text),
      ]);
    case "hparams": {
      const { values, name, startedAt } = content;
      // A map entry is a message of its key and its value, here a google.protobuf.Value.
      const entries = Object.entries(values).map(([key, value]) =>
        proto.message(
          1,
          proto.text(1, key),
          proto.message(2, typeof value === "number" ? proto.double(2, value) : proto.text(3, value)),
        ),
      );
      const info = proto.message(3, ...entries, proto.text(4, name), proto.double(5, startedAt));
      return summary("_hparams_/session_start_info", plugin("hparams", info), NOTHING);
    }
    case "session-end": {
      const info = proto.message(4, proto.integer(1, STATUS[content.status]), proto.double(2, content.endedAt));
      return summary("_hparams_/session_end_info", plugin("hparams", info), NOTHING);
    }
  }
}

/** A tensor without elements: the hparams plugin keeps everything in its metadata. */
const NOTHING = [proto.integer(1, DT_FLOAT), proto.message(2, proto.message(2, proto.integer(1, 0)))];

function summary(tag: string, metadata: Buffer, tensor: readonly Buffer[]): Buffer {
  return proto.message(5, proto.message(1, proto.text(1, tag), proto.message(8, ...tensor), metadata));
}

/** SummaryMetadata. */
function plugin(name: string, content?: Buffer): Buffer {
  return proto.message(9, proto.message(1, proto.text(1, name), ...(content ? [proto.message(2, content)] : [])));
}
