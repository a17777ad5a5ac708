import { isUtf8 } from "node:buffer";
import { boundedJsonText } from "../base/json-text.js";
import { parseChatJson } from "../tokenizer/index.js";
import type { ByteStream } from "./byte-stream.js";

/** One value of a file. */
export interface JsonItem {
  /** Number of the line, list element or row, from 1. */
  readonly number: number;
  /** The parsed value; undefined if there is a problem. */
  readonly value: unknown;
  readonly problem?: "not UTF-8" | "not JSON";
}

/** Maximum bytes of one record. V8's strings are limited to 512 MiB. */
export const MAX_RECORD_BYTES = 128 * 2 ** 20;

const NEWLINE = 0x0a;
const [QUOTE, BACKSLASH, COMMA] = [0x22, 0x5c, 0x2c];
const [BRACKET, END_BRACKET, BRACE, END_BRACE] = [0x5b, 0x5d, 0x7b, 0x7d];

/**
 * Yields the values of a JSON text: the elements of a list, one value per line, or the single value of a text of
 * several lines. Memory use is one chunk and the longest value, except in the last case.
 *
 * @throws Error naming a line or element that is too long, or the place where a list is malformed
 */
export async function* jsonItems(chunks: ByteStream, path: string): AsyncGenerator<JsonItem, void, void> {
  const reader = new Window(chunks);
  if ((await reader.skipSpace()) === BRACKET) return yield* listItems(reader);
  const mayBeOne = /\.json(\.gz|\.zst|\.zstd)?$/i.test(path);
  for (let isFirst = true; (await reader.skipSpace()) !== undefined; isFirst = false) {
    const number = reader.newlines + 1;
    const line = await reader.line(`line ${number}`);
    const item = parseItem(line, number);
    if (mayBeOne && isFirst && item.problem === "not JSON") {
      const start = Buffer.concat([line, Buffer.of(NEWLINE)]);
      return yield parseItem(Buffer.concat([start, await reader.rest("the text")]), 1);
    }
    yield item;
  }
}

/**
 * Yields the elements of a list, starting at its bracket. A malformed element is an error, because parsing cannot
 * continue after it.
 */
async function* listItems(reader: Window): AsyncGenerator<JsonItem, void, void> {
  reader.take(1);
  for (let number = 1; ; number++) {
    const next = await reader.skipSpace();
    if (next === END_BRACKET && number === 1) break;
    const element = await reader.value(`element ${number} of the list`);
    const item = parseItem(element, number);
    if (item.problem === "not JSON") throw new Error(`element ${number} of the list is not JSON`);
    yield item;
    const after = await reader.skipSpace();
    if (after === END_BRACKET) break;
    if (after !== COMMA) {
      const found = after === undefined ? "the file ends" : `found '${String.fromCharCode(after)}'`;
      throw new Error(`${found} after element ${number} of the list, expected ',' or ']'`);
    }
    reader.take(1);
  }
  reader.take(1);
  if ((await reader.skipSpace()) !== undefined) throw new Error("the file has more text after the list");
}

/** Fields that chat templates may print, where 1.0 and 1 differ (see {@link parseChatJson}). */
const TEMPLATE_FIELDS = ["messages", "conversations", "tools", "functions", "documents", "chat_template_kwargs"];

function parseItem(bytes: Uint8Array, number: number): JsonItem {
  if (!isUtf8(bytes)) return { number, value: undefined, problem: "not UTF-8" };
  try {
    const bounded = boundedJsonText(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8"));
    const value: unknown = JSON.parse(bounded);
    if (typeof value === "object" && value !== null && TEMPLATE_FIELDS.some((key) => Object.hasOwn(value, key))) {
      const record = value as Record<string, unknown>;
      const exact = parseChatJson(bounded) as Record<string, unknown>;
      for (const key of TEMPLATE_FIELDS) if (Object.hasOwn(record, key)) record[key] = exact[key];
    }
    return { number, value };
  } catch {
    return { number, value: undefined, problem: "not JSON" };
  }
}

/** A sliding window over a byte stream. Bytes returned by a method are valid until the next call. */
class Window {
  readonly #chunks: AsyncIterator<Uint8Array>;
  #buffer = Buffer.alloc(0);
  #start = 0;
  #end = 0;
  #hasBegun = false;
  /** Number of newlines passed outside of a list. */
  newlines = 0;

  constructor(chunks: ByteStream) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  /** Skips white space and returns the next byte; undefined at the end. */
  async skipSpace(): Promise<number | undefined> {
    do {
      const [bytes, end] = [this.#buffer, this.#end];
      let at = this.#start;
      for (; at < end && bytes[at] <= 0x20; at++) if (bytes[at] === NEWLINE) this.newlines++;
      this.#start = at;
      if (at < end) return bytes[at];
    } while (await this.#more());
    return undefined;
  }

  /** Reads up to the next newline, which is consumed, or to the end. */
  async line(what: string): Promise<Buffer> {
    for (let looked = 0; ; ) {
      const end = this.#buffer.indexOf(NEWLINE, this.#start + looked);
      if (end >= 0 && end < this.#end) {
        const line = this.take(end - this.#start);
        this.#start++;
        this.newlines++;
        return line;
      }
      looked = this.#end - this.#start;
      if (!(await this.#more(what))) return this.take(looked);
    }
  }

  /** Reads one value of a list: the bytes up to the comma or bracket after it. */
  async value(what: string): Promise<Buffer> {
    let depth = 0;
    let inString = false;
    let isEscaped = false;
    for (let at = 0; ; ) {
      const bytes = this.#buffer.subarray(this.#start, this.#end);
      for (; at < bytes.length; at++) {
        const byte = bytes[at];
        if (inString) {
          if (isEscaped) isEscaped = false;
          else if (byte === BACKSLASH) isEscaped = true;
          else if (byte === QUOTE) inString = false;
        } else if (byte === QUOTE) inString = true;
        else if (byte === BRACKET || byte === BRACE) depth++;
        else if (byte === COMMA && depth === 0) return this.take(at);
        else if (byte === END_BRACKET || byte === END_BRACE) {
          if (depth === 0) return this.take(at);
          depth--;
        }
      }
      if (!(await this.#more(what))) throw new Error(`the file ends within ${what}`);
    }
  }

  async rest(what: string): Promise<Buffer> {
    while (await this.#more(what));
    return this.take(this.#end - this.#start);
  }

  take(count: number): Buffer {
    this.#start += count;
    return this.#buffer.subarray(this.#start - count, this.#start);
  }

  /** Adds a chunk; returns false at the end. @param what name of the item in the window, whose length is limited */
  async #more(what?: string): Promise<boolean> {
    const { value, done } = await this.#chunks.next();
    if (done) return false;
    let chunk: Uint8Array = value;
    if (!this.#hasBegun && chunk[0] === 0xef && chunk[1] === 0xbb && chunk[2] === 0xbf) chunk = chunk.subarray(3);
    this.#hasBegun = true;
    const left = this.#end - this.#start;
    if (what !== undefined && left + chunk.length > MAX_RECORD_BYTES) {
      throw new Error(`${what} is longer than ${MAX_RECORD_BYTES / 2 ** 20} MiB`);
    }
    if (this.#end + chunk.length > this.#buffer.length) {
      const old = this.#buffer;
      if (left + chunk.length > old.length / 2) this.#buffer = Buffer.allocUnsafe(2 * (left + chunk.length));
      old.copy(this.#buffer, 0, this.#start, this.#end);
      this.#start = 0;
      this.#end = left;
    }
    this.#buffer.set(chunk, this.#end);
    this.#end += chunk.length;
    return true;
  }
}
