import { invalid, isWellFormed, unsupported } from "../component.js";

/** Maximum id. Larger ids are rejected, because arrays are sized by the highest id. */
export const HIGHEST_ID: number = 2 ** 24 - 1;

/** The tokens of a model by id, and the ids by token. */
export class Vocabulary {
  readonly #idOf: ReadonlyMap<string, number>;
  readonly #tokenOf = new Map<number, string>();
  /** The highest id; -1 for an empty vocabulary. */
  readonly highestId: number;

  /**
   * @throws ComponentError TOKENIZER_FILE_INVALID, TOKENIZER_UNSUPPORTEDfor invalid ids and two tokens with the same id
   */
  constructor(entries: Iterable<readonly [token: string, id: unknown]>, place: string) {
    const idOf = new Map<string, number>();
    let highest = -1;
    for (const [token, id] of entries) {
      const at = `${place} ${JSON.stringify(token.slice(0, 100))}`;
      if (!isTokenId(id))
        throw invalid(at, `${JSON.stringify(id)} is not a token id (an integer from 0 to 4294967295)`);
      if (id > HIGHEST_ID) throw unsupported(at, `the id ${id} is too high (at most ${HIGHEST_ID})`);
      if (!isWellFormed(token)) throw invalid(at, "not a Unicode text: it has a lone surrogate");
      const other = this.#tokenOf.get(id);
      if (other !== undefined) throw invalid(at, `its id ${id} is also that of ${JSON.stringify(other)}`);
      idOf.set(token, id);
      this.#tokenOf.set(id, token);
      if (id > highest) highest = id;
    }
    this.#idOf = idOf;
    this.highestId = highest;
  }

  static read(json: unknown, place: string): Vocabulary {
    if (typeof json !== "object" || json === null || Array.isArray(json)) throw invalid(place, "expected an object");
    return new Vocabulary(Object.entries(json), place);
  }

  get size(): number {
    return this.#tokenOf.size;
  }

  idOf(token: string): number | undefined {
    return this.#idOf.get(token);
  }

  tokenOf(id: number): string | undefined {
    return this.#tokenOf.get(id);
  }

  /** The ids of the byte tokens ("<0x0A>", ...) of a text, undefined if one is missing. */
  byteIds(text: string): number[] | undefined {
    const ids: number[] = [];
    for (const byte of Buffer.from(text, "utf8")) {
      const id = this.#idOf.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
      if (id === undefined) return undefined;
      ids.push(id);
    }
    return ids;
  }
}

export function isTokenId(id: unknown): id is number {
  return Number.isSafeInteger(id) && (id as number) >= 0 && (id as number) < 2 ** 32;
}

/** Converts words to ids. */
export interface TokenModel {
  readonly vocabulary: Vocabulary;
  /**
   * The ids of one non-empty word.
   *
   * @throws TokenizerError TOKENIZER_TEXT for a word without tokens, if the model has no unknown token
   */
  encode(word: string): readonly number[];
  /** encode() for a word whose bytes are not yet converted to characters; undefined if some bytes have no token. */
  readonly encodeBytes?: (word: string) => readonly number[];
}
