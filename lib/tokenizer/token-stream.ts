import { TextDecoder } from "node:util";

/** What a stream decoder needs of a tokenizer. */
export interface TokenText {
  /** Whether text is the plain concatenation of the tokens' bytes (byte-level BPE). */
  readonly isByteLevel: boolean;
  isSpecial(id: number): boolean;
  /** Whether the text of an id at the end may change with the ids that follow (bytes that are tokens of their own). */
  mayChange(id: number): boolean;
  rawBytesOf(id: number): Uint8Array;
  decode(ids: readonly number[], options?: { skipSpecialTokens?: boolean }): string;
}

/**
 * Turns ids that arrive bit by bit into text. What `push` returns never ends within a character: bytes that do not yet
 * make one are held back. All returned pieces together equal `decode` of all ids.
 */
export class StreamDecoder {
  readonly #tokenizer: TokenText;
  readonly #skipSpecial: boolean;
  #utf8 = newUtf8Decoder();
  /** For tokenizers whose text depends on neighbours: ids whose text may still change, and the text already given. */
  #pending: number[] = [];
  #given = 0;

  /** @param options.skipSpecialTokens leave bos, eos, mask and the like out of the text. Default true. */
  constructor(tokenizer: TokenText, options: { skipSpecialTokens?: boolean } = {}) {
    this.#tokenizer = tokenizer;
    this.#skipSpecial = options.skipSpecialTokens ?? true;
  }

  /** Takes more ids; returns the text that is certain by now and was not returned before, "" if none. */
  push(ids: number | Iterable<number>): string {
    const list = typeof ids === "number" ? [ids] : [...ids];
    return this.#tokenizer.isByteLevel ? this.#pushBytes(list) : this.#pushWindow(list);
  }

  /** Ends the stream: returns what was held back (an unfinished character as U+FFFD). The decoder can be used again. */
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
    // The last ids stay as context: they decide whether the next piece starts with a space.
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
