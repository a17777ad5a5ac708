import { randomInt } from "node:crypto";
import { closeSync, fsyncSync, ftruncateSync, mkdirSync, openSync } from "node:fs";
import { hostname } from "node:os";
import { join, resolve } from "node:path";
import { crc32 } from "node:zlib";
import { writeAll } from "../../../base/regular-file.js";
import { packageVersion } from "../../../torch/package-version.js";
import { integer, message, text } from "../protobuf.js";
import type { WandbOptions, WandbRun } from "./options.js";

/** Fields of W&B's wandb_internal.proto. */
const RECORD = { number: 1, history: 2, summary: 3, run: 17, exit: 18, header: 21 };
const RUN = { id: 1, entity: 2, project: 3, config: 4, displayName: 8, host: 13, startTime: 17 };
const ITEM = { key: 1, nestedKey: 2, valueJson: 16 };

/** What a W&B older than this cannot read. */
const MIN_CONSUMER = "0.70.0";

/**
 * A run of WANDB_MODE=offline: no network and no SDK. It writes the file that Python's wandb writes in this mode, in
 * WANDB_DIR or the working directory: `wandb sync FOLDER` uploads it later.
 */
export class OfflineRun implements WandbRun {
  /** The folder to give to `wandb sync`. */
  readonly folder: string;
  readonly #id = runId();
  readonly #began = Date.now();
  readonly #log: TransactionLog;

  constructor({ project, entity, name, config }: WandbOptions & { config: Record<string, unknown> }) {
    const parent = process.env.WANDB_DIR || ".";
    this.folder = resolve(parent, "wandb", `offline-run-${timestamp(this.#began)}-${this.#id}`);
    mkdirSync(this.folder, { recursive: true });
    this.#log = new TransactionLog(join(this.folder, `run-${this.#id}.wandb`));
    const producer = text(1, `stable-diffcoder ${packageVersion()}`);
    this.#log.append(RECORD.header, message(1, producer, text(2, MIN_CONSUMER)));
    this.#log.append(
      RECORD.run,
      text(RUN.id, this.#id),
      ...(entity === undefined ? [] : [text(RUN.entity, entity)]),
      text(RUN.project, project),
      message(RUN.config, ...items(config, ITEM.key)),
      ...(name === undefined ? [] : [text(RUN.displayName, name)]),
      text(RUN.host, hostname()),
      message(RUN.startTime, integer(1, Math.floor(this.#began / 1000)), integer(2, (this.#began % 1000) * 1e6)),
    );
  }

  log(data: Record<string, unknown>, { step }: { step: number }): void {
    const now = Date.now();
    const row = { ...data, _step: step, _timestamp: now / 1000, _runtime: (now - this.#began) / 1000 };
    this.#log.append(RECORD.history, ...items(row, ITEM.nestedKey), message(2, integer(1, step)));
    this.#log.append(RECORD.summary, ...items(row, ITEM.nestedKey));
  }

  readonly summary = {
    update: (values: Record<string, unknown>) => this.#log.append(RECORD.summary, ...items(values, ITEM.nestedKey)),
  };

  finish(exitCode = 0): void {
    const seconds = Math.round((Date.now() - this.#began) / 1000);
    this.#log.append(RECORD.exit, integer(1, exitCode), integer(2, seconds));
    this.#log.close();
  }
}

/** A name with its value as JSON, for each value that JSON has: config, history and summary are lists of these. */
function items(values: Record<string, unknown>, keyField: number): Buffer[] {
  return Object.entries(values).flatMap(([key, value]) => {
    const json = JSON.stringify(value);
    return json === undefined ? [] : [message(1, text(keyField, key), text(ITEM.valueJson, json))];
  });
}

const BLOCK = 32_768;
const HEADER = 7;
const [FULL, FIRST, MIDDLE, LAST] = [1, 2, 3, 4];

/**
 * LevelDB's log format, as W&B uses it: blocks of 32 KiB, records cut where a block ends, each piece with its CRC-32 (not
 * LevelDB's CRC-32C), its length and its kind before it.
 */
class TransactionLog {
  readonly #file: number;
  #position = HEADER;
  #records = 0;

  constructor(path: string) {
    this.#file = openSync(path, "wx");
    writeAll(this.#file, Buffer.from([0x3a, 0x57, 0x26, 0x42, 0xe1, 0xbe, 0x00])); // ":W&B", its magic number, version 0
  }

  /** Appends a Record with one field set. */
  append(field: number, ...fields: readonly Uint8Array[]): void {
    const before = this.#position;
    this.#records++;
    const bytes = Buffer.concat([integer(RECORD.number, this.#records), message(field, ...fields)]);
    const pieces: Buffer[] = [];
    // Not "from is 0": with exactly HEADER bytes left in the block, the first piece is a header without data.
    let isFirst = true;
    for (let from = 0; from < bytes.length; ) {
      const left = BLOCK - (this.#position % BLOCK);
      if (left < HEADER) {
        pieces.push(Buffer.alloc(left));
        this.#position += left;
        continue;
      }
      const to = Math.min(bytes.length, from + left - HEADER);
      const isLast = to === bytes.length;
      const kind = isFirst ? (isLast ? FULL : FIRST) : isLast ? LAST : MIDDLE;
      isFirst = false;
      const data = bytes.subarray(from, to);
      const header = Buffer.alloc(HEADER);
      header.writeUInt32LE(crc32(Buffer.concat([Buffer.of(kind), data])), 0);
      header.writeUInt16LE(data.length, 4);
      header.writeUInt8(kind, 6);
      pieces.push(header, data);
      this.#position += HEADER + data.length;
      from = to;
    }
    try {
      writeAll(this.#file, Buffer.concat(pieces));
    } catch (error) {
      ftruncateSync(this.#file, before); // nothing behind half a record can be read
      this.#position = before;
      this.#records--;
      throw error;
    }
  }

  close(): void {
    try {
      fsyncSync(this.#file);
    } finally {
      closeSync(this.#file);
    }
  }
}

/** Eight letters and digits, as W&B names runs. */
function runId(): string {
  const letters = "abcdefghijklmnopqrstuvwxyz0123456789";
  return Array.from({ length: 8 }, () => letters[randomInt(letters.length)]).join("");
}

/** Local time as in W&B's folder names: 20260131_235959. */
function timestamp(milliseconds: number): string {
  const date = new Date(milliseconds);
  const two = (value: number) => String(value).padStart(2, "0");
  const day = `${date.getFullYear()}${two(date.getMonth() + 1)}${two(date.getDate())}`;
  return `${day}_${two(date.getHours())}${two(date.getMinutes())}${two(date.getSeconds())}`;
}
