import { TextDecoder } from "node:util";

/** The part of a tokenizer that a stream decoder uses. */
export interface TokenText {
  /** Whether text is the plain concatenation of the tokens' bytes (byte-level BPE). */
  readonly isByteLevel: boolean;
  isSpecial(id: number): boolean;
  /** Whether the text of a final id may change when other ids follow (byte tokens). */
  mayChange(id: number): boolean;
  rawBytesOf(id: number): Uint8Array;
  decode(ids: readonly number[], options?: { skipSpecialTokens?: boolean }): string;
}

/**
 * Decodes ids incrementally. The text returned by `push` never ends within a character: incomplete characters are held
 * back. The concatenation of all returned pieces equals `decode` of all ids.
 */
export class StreamDecoder {
  readonly #tokenizer: TokenText;
  readonly #skipSpecial: boolean;
  #utf8 = newUtf8Decoder();
  /** For tokenizers whose text depends on context: ids whose text may still change, and the text already returned. */
  #pending: number[] = [];
  #given = 0;

  /** @param options.skipSpecialTokens omit special tokens such as bos, eos and mask. Default true. */
  constructor(tokenizer: TokenText, options: { skipSpecialTokens?: boolean } = {}) {
    this.#tokenizer = tokenizer;
    this.#skipSpecial = options.skipSpecialTokens ?? true;
  }

  /** Adds ids and returns the new text that can no longer change, "" if there is none. */
  push(ids: number | Iterable<number>): string {
    const list = typeof ids === "number" ? [ids] : [...ids];
    return this.#tokenizer.isByteLevel ? this.#pushBytes(list) : this.#pushWindow(list);
  }

  /**
   * Ends the stream and returns the text that was held back (an incomplete character as U+FFFD). The decoder can be
   * reused.
   */
  flush(): string {
    if (this.#tokenizer.isByteLevel) {
      const rest = this.#utf8.decode();
      this.#utf8 = newUtf8Decoder();
      return rest;
    }
    const rest = this.#window(this.#pending).slice(this.#given);
    this.#pending = [];
    this.#given = 0;
    return rest;
  }

  #pushBytes(ids: readonly number[]): string {
    let text = "";
    for (const id of ids) {
      if (this.#skipSpecial && this.#tokenizer.isSpecial(id)) continue;
      text += this.#utf8.decode(this.#tokenizer.rawBytesOf(id), { stream: true });
    }
    return text;
  }

  #pushWindow(ids: readonly number[]): string {
    for (const id of ids) this.#pending.push(id);
    const last = this.#pending.findLast((id) => !(this.#skipSpecial && this.#tokenizer.isSpecial(id)));
    if (last !== undefined && this.#tokenizer.mayChange(last)) return "";
    const text = this.#window(this.#pending);
    if (text.endsWith("\ufffd") || text.length <= this.#given) return "";
    const piece = text.slice(this.#given);
    // The last ids are kept as context, because they determine whether the next piece starts with a space.
    const context = this.#pending.slice(-ids.length);
    const contextText = this.#window(context);
    if (contextText !== "" && piece.endsWith(contextText) && !contextText.includes("\ufffd")) {
      this.#pending = context;
      this.#given = contextText.length;
    } else {
      this.#given = text.length;
    }
    return piece;
  }

  #window(ids: readonly number[]): string {
    return this.#tokenizer.decode(ids, { skipSpecialTokens: this.#skipSpecial });
  }
}

function newUtf8Decoder(): TextDecoder {
  return new TextDecoder("utf-8", { fatal: false, ignoreBOM: true });
}
