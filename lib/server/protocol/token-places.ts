import type { Tokenizer } from "../../tokenizer/index.js";

/** Where a token is in a text, and what it stands for. */
export interface PlacedToken {
  /** The token's own bytes; those of all tokens are the text in UTF-8. None of a token that is not in the text. */
  bytes: number[];
  /** Characters (code points) of the text before the one that the token begins in. */
  offset: number;
}

const BYTE_TOKEN = /^<0x[0-9A-F]{2}>$/;

/** Places the tokens of a text in it, one by one. A character may be cut in several tokens, and they in bytes only. */
export class TokenPlaces {
  readonly #tokenizer: Tokenizer;
  #decoder: ReturnType<Tokenizer["stream"]> | undefined;
  /** Code points that are complete. */
  #count: number;
  /** The bytes of a character that is not. */
  #open: number[] = [];

  /** @param start code points that precede the first token */
  constructor(tokenizer: Tokenizer, start = 0) {
    this.#tokenizer = tokenizer;
    this.#count = start;
  }

  /** @param shown whether the token is in the text; by default all are but special ones, as in what is generated */
  place(id: number, shown = !this.#tokenizer.isSpecial(id)): PlacedToken {
    if (!shown) return { bytes: [], offset: this.#count };
    return this.#tokenizer.isByteLevel ? this.#placeBytes(id) : this.#placePiece(id);
  }

  #placeBytes(id: number): PlacedToken {
    const bytes = [...this.#tokenizer.rawBytesOf(id)];
    if (bytes.length === 0) return { bytes, offset: this.#count };
    // What cannot go on with the character that is open leaves U+FFFD in its place.
    const isCut = this.#open.length > 0 && !goesOn(this.#open, bytes[0]);
    const offset = this.#count + (isCut ? 1 : 0);
    const all = [...this.#open, ...bytes];
    const end = all.length - openBytes(all);
    this.#count += codePoints(Buffer.from(all.slice(0, end)).toString("utf8"));
    this.#open = all.slice(end);
    return { bytes, offset };
  }

  /** Of other tokenizers a token's text depends on those before: a space is left out at the beginning. */
  #placePiece(id: number): PlacedToken {
    const offset = this.#count;
    this.#decoder ??= this.#tokenizer.stream({ skipSpecialTokens: false });
    const piece = this.#decoder.push(id);
    this.#count += codePoints(piece);
    if (BYTE_TOKEN.test(this.#tokenizer.idToToken(id) ?? "")) {
      const bytes = [...this.#tokenizer.rawBytesOf(id)];
      this.#open = piece === "" ? [...this.#open, ...bytes] : [];
      return { bytes, offset };
    }
    // The bytes before, if they made no character, are counted with the tokens they are of.
    const own = this.#open.length > 0 ? piece.replace(/^\ufffd+/, "") : piece;
    this.#open = [];
    return { bytes: [...Buffer.from(own, "utf8")], offset: offset + codePoints(piece) - codePoints(own) };
  }
}

export function codePoints(text: string): number {
  let count = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code < 0xdc00 || code > 0xdfff) count++;
  }
  return count;
}

/** The length of the character that a byte begins, 0 if it begins none. */
function lengthFrom(lead: number): number {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return 2;
  if (lead >= 0xe0 && lead <= 0xef) return 3;
  return lead >= 0xf0 && lead <= 0xf4 ? 4 : 0;
}

/** Whether a byte continues an open character (Unicode, table 3-7: the second byte of some is limited). */
function goesOn(open: readonly number[], byte: number): boolean {
  if (open.length > 1) return byte >= 0x80 && byte <= 0xbf;
  const [lead] = open;
  const least = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
  const most = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
  return byte >= least && byte <= most;
}

/** How many bytes at the end are the beginning of a character. */
function openBytes(bytes: readonly number[]): number {
  for (let length = Math.min(3, bytes.length); length > 0; length--) {
    const tail = bytes.slice(-length);
    if (lengthFrom(tail[0]) <= length) continue;
    if (tail.slice(1).every((byte, i) => goesOn(tail.slice(0, i + 1), byte))) return length;
  }
  return 0;
}
