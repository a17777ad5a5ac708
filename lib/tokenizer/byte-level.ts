import type { AddedToken, TokenizerJson } from "./tokenizer-files.js";

/**
 * Byte-level BPE writes each byte as one printable character (GPT-2): printable Latin-1 as itself, the 68 others from
 * U+0100 on.
 */
export const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = makeByteTable();

function makeByteTable(): Map<string, number> {
  const table = new Map<string, number>();
  let others = 0;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    table.set(String.fromCharCode(printable ? byte : 256 + others++), byte);
  }
  return table;
}

const CHARACTER_OF_BYTE = [...BYTE_OF_CHARACTER.keys()];

function toCharacters(bytes: Uint8Array): string {
  let characters = "";
  for (const byte of bytes) characters += CHARACTER_OF_BYTE[byte];
  return characters;
}

/** The bytes that a byte-level token stands for; a token with any other character stands for its own UTF-8. */
export function bytesOfToken(token: string): Uint8Array {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = BYTE_OF_CHARACTER.get(token[i]);
    if (byte === undefined) return Buffer.from(token, "utf8");
    bytes[i] = byte;
  }
  return bytes;
}

/** What the encoder below is made of. */
export interface WordParts {
  /** Cuts a text into words, all pre-tokenizers but the last (byte level) applied. */
  splitWords(text: string): string[];
  /** The library's own merge of one word, given in byte characters: for what the merger here does not take. */
  mergeLong(word: string): number[];
  readonly merger: ByteMerger | undefined;
  /** The id of a word that is a token as it stands and then is not merged: only with `ignore_merges` (Llama 3). */
  wholeWord?(word: string): number | undefined;
}

/** Words longer than this are merged by a heap and not kept. */
const MAX_WORD_BYTES = 64;
const MAX_WORDS = 200_000;

/**
 * Encodes for byte-level BPE. The library does it too, with the same ids, but on strings and with 10,000 words kept;
 * here ids are kept by the word itself, and new words are merged on ids.
 */
export class ByteLevelEncoder {
  readonly #parts: WordParts;
  readonly #words = new Map<string, readonly number[]>();

  constructor(parts: WordParts) {
    this.#parts = parts;
  }

  /** Appends the ids of `text`, in which no token is special, to `out`. */
  encode(text: string, out: number[]): void {
    for (const word of this.#parts.splitWords(text)) {
      const ids = this.#words.get(word) ?? this.#merge(word);
      for (let i = 0; i < ids.length; i++) out.push(ids[i]);
    }
  }

  #merge(word: string): readonly number[] {
    const bytes = Buffer.from(word, "utf8");
    const isShort = bytes.length <= MAX_WORD_BYTES;
    const { merger, wholeWord, mergeLong } = this.#parts;
    let ids: number[];
    if (merger) {
      const whole = wholeWord?.(toCharacters(bytes));
      ids = whole !== undefined ? [whole] : isShort ? merger.merge(bytes) : merger.mergeLong(bytes);
    } else {
      ids = mergeLong(toCharacters(bytes));
    }
    if (isShort) {
      if (this.#words.size >= MAX_WORDS) this.#words.clear();
      // A slice would keep the whole text alive, so the key is made anew.
      this.#words.set(bytes.toString("utf8"), ids);
    }
    return ids;
  }
}

/** Byte-pair merges on ids: the pair with the lowest rank first, the leftmost of equals. */
export class ByteMerger {
  readonly #byteIds: Int32Array;
  /** By left id * stride + right id: the rank of that merge. */
  readonly #ranks = new Map<number, number>();
  readonly #stride: number;
  readonly #merged: Int32Array;

  private constructor(byteIds: Int32Array, stride: number, merged: Int32Array) {
    this.#byteIds = byteIds;
    this.#stride = stride;
    this.#merged = merged;
  }

  /**
   * @param merges pairs of tokens in byte characters, best first
   * @returns undefined where a byte or a part of a merge has no id, so that unknown tokens are possible
   */
  static from(tokenToId: ReadonlyMap<string, number>, merges: readonly (readonly string[])[]): ByteMerger | undefined {
    const byteIds = Int32Array.from(CHARACTER_OF_BYTE, (character) => tokenToId.get(character) ?? -1);
    let stride = 0;
    for (const id of tokenToId.values()) stride = Math.max(stride, id + 1);
    const merger = new ByteMerger(byteIds, stride, new Int32Array(merges.length));
    for (const [rank, [left, right]] of merges.entries()) {
      const ids = [tokenToId.get(left), tokenToId.get(right), tokenToId.get(left + right)];
      if (ids.includes(undefined)) return undefined;
      const [leftId, rightId, mergedId] = ids as number[];
      const key = leftId * stride + rightId;
      if (!merger.#ranks.has(key)) merger.#ranks.set(key, rank);
      merger.#merged[rank] = mergedId;
    }
    return byteIds.includes(-1) ? undefined : merger;
  }

  /**
   * The ids of one long word: a heap of pairs by rank, then by place, over a linked list, so that a run of a million
   * spaces takes a second and not minutes.
   */
  mergeLong(bytes: Uint8Array): number[] {
    const { length } = bytes;
    const ids = Int32Array.from(bytes, (byte) => this.#byteIds[byte]);
    // Neighbours by place; -1 where there is none. A place that was merged into its left neighbour has the id -1.
    const next = Int32Array.from(bytes, (_, i) => (i + 1 < length ? i + 1 : -1));
    const previous = Int32Array.from(bytes, (_, i) => i - 1);
    const heap = new PairHeap();
    const offer = (left: number) => {
      const right = next[left];
      if (right < 0) return;
      const rank = this.#rank(ids[left], ids[right]);
      if (rank !== Number.POSITIVE_INFINITY) heap.push(rank, left);
    };
    for (let i = 0; i < length; i++) offer(i);
    for (let rank = heap.pop(); rank >= 0; rank = heap.pop()) {
      const left = heap.place;
      const right = next[left];
      // A pair may have changed since it was offered; what it became was offered, too.
      if (ids[left] < 0 || right < 0 || this.#rank(ids[left], ids[right]) !== rank) continue;
      ids[left] = this.#merged[rank];
      ids[right] = -1;
      next[left] = next[right];
      if (next[right] >= 0) previous[next[right]] = left;
      if (previous[left] >= 0) offer(previous[left]);
      offer(left);
    }
    return Array.from(ids.filter((id) => id >= 0));
  }

  /** The ids of one word. Quadratic in its length: for words of some dozens of bytes. */
  merge(bytes: Uint8Array): number[] {
    const ids = Array.from(bytes, (byte) => this.#byteIds[byte]);
    const ranks = ids.slice(1).map((right, i) => this.#rank(ids[i], right));
    while (ranks.length > 0) {
      let best = 0;
      for (let i = 1; i < ranks.length; i++) if (ranks[i] < ranks[best]) best = i;
      if (ranks[best] === Number.POSITIVE_INFINITY) break;
      ids[best] = this.#merged[ranks[best]];
      ids.splice(best + 1, 1);
      ranks.splice(best, 1);
      if (best > 0) ranks[best - 1] = this.#rank(ids[best - 1], ids[best]);
      if (best < ranks.length) ranks[best] = this.#rank(ids[best], ids[best + 1]);
    }
    return ids;
  }

  #rank(left: number, right: number): number {
    return this.#ranks.get(left * this.#stride + right) ?? Number.POSITIVE_INFINITY;
  }
}

/** A binary heap of places, least rank first, then least place. */
class PairHeap {
  readonly #ranks: number[] = [];
  readonly #places: number[] = [];
  /** Of what was popped last. */
  place = -1;

  push(rank: number, place: number): void {
    const ranks = this.#ranks;
    const places = this.#places;
    let at = ranks.length;
    ranks.push(rank);
    places.push(place);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (ranks[parent] < rank || (ranks[parent] === rank && places[parent] <= place)) break;
      ranks[at] = ranks[parent];
      places[at] = places[parent];
      at = parent;
    }
    ranks[at] = rank;
    places[at] = place;
  }

  /** The least rank, taken out; -1 if there is none. */
  pop(): number {
    const ranks = this.#ranks;
    const places = this.#places;
    if (ranks.length === 0) return -1;
    const top = ranks[0];
    this.place = places[0];
    const rank = ranks.pop() as number;
    const place = places.pop() as number;
    const { length } = ranks;
    let at = 0;
    while (length > 0) {
      let child = 2 * at + 1;
      if (child >= length) break;
      const other = child + 1;
      if (
        other < length &&
        (ranks[other] < ranks[child] || (ranks[other] === ranks[child] && places[other] < places[child]))
      ) {
        child = other;
      }
      if (rank < ranks[child] || (rank === ranks[child] && place <= places[child])) break;
      ranks[at] = ranks[child];
      places[at] = places[child];
      at = child;
    }
    if (length > 0) {
      ranks[at] = rank;
      places[at] = place;
    }
    return top;
  }
}

/**
 * The pre-tokenizers in front of a plain byte level, or undefined if this tokenizer is of another kind and has to be
 * encoded by the library: another model, a prefix space, merges with dropout or suffixes.
 */
export function wordPreTokenizers(tokenizer: TokenizerJson): TokenizerJson["pre_tokenizer"][] | undefined {
  const { model, pre_tokenizer: root } = tokenizer;
  if ((model.type ?? "BPE") !== "BPE" || Array.isArray(model.vocab) || root === null) return undefined;
  if (model.dropout || model.end_of_word_suffix || model.continuing_subword_prefix || model.fuse_unk) return undefined;
  const stages = (root.type === "Sequence" ? root.pretokenizers : [root]) as TokenizerJson["pre_tokenizer"][];
  const last = stages.at(-1);
  if (last?.type !== "ByteLevel" || last.add_prefix_space) return undefined;
  // Only these keep every character and do not look at where in the text they are.
  if (!stages.slice(0, -1).every((stage) => stage?.type === "Split" || stage?.type === "Digits")) return undefined;
  const words = stages.slice(0, -1);
  if (last.use_regex ?? true) words.push({ type: "Split", pattern: { Regex: GPT2_WORDS }, behavior: "Isolated" });
  return words;
}

/** What ByteLevel splits by when it is asked to (`use_regex`): GPT-2's words. */
const GPT2_WORDS = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** Cuts added tokens out of a text: longest first, leftmost first, as the Rust library's automaton does. */
export class AddedTokenSplitter {
  readonly #pattern: RegExp | undefined;
  readonly #ids: ReadonlyMap<string, number>;

  constructor(tokens: readonly AddedToken[]) {
    this.#ids = new Map(tokens.map((token) => [token.content, token.id]));
    const contents = [...this.#ids.keys()].filter((one) => one.length > 0).sort((a, b) => b.length - a.length);
    const escaped = contents.map((content) => content.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"));
    this.#pattern = escaped.length > 0 ? new RegExp(escaped.join("|"), "g") : undefined;
  }

  /** Calls `plain` for each stretch of text between added tokens and `added` for each of these, in order. */
  split(text: string, plain: (text: string) => void, added: (id: number) => void): void {
    let end = 0;
    if (this.#pattern) {
      for (const match of text.matchAll(this.#pattern)) {
        if (match.index > end) plain(text.slice(end, match.index));
        added(this.#ids.get(match[0]) as number);
        end = match.index + match[0].length;
      }
    }
    if (end < text.length) plain(end === 0 ? text : text.slice(end));
  }
}
