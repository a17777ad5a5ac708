import { CATEGORIES, CLASSES, SCRIPTS } from "./unicode-data.js";

const LAST = 0x10ffff;

/** A set of code points, such as a character class. */
export class CodePointSet {
  /** First and last of each range, in order, with gaps between ranges. */
  readonly ranges: readonly (readonly [first: number, last: number])[];
  #source: string | undefined;

  private constructor(ranges: readonly (readonly [number, number])[]) {
    this.ranges = ranges;
  }

  static of(ranges: Iterable<readonly [first: number, last: number]>): CodePointSet {
    const joined: [number, number][] = [];
    for (const [first, last] of [...ranges].sort((a, b) => a[0] - b[0])) {
      const end = joined.at(-1);
      if (end && first <= end[1] + 1) end[1] = Math.max(end[1], last);
      else joined.push([first, last]);
    }
    return new CodePointSet(joined);
  }

  static characters(text: string): CodePointSet {
    return CodePointSet.of(Array.from(text, (character) => [codePoint(character), codePoint(character)] as const));
  }

  /** Parses the encoding written by scripts/fixtures/tokenizer_unicode.py. */
  static parse(encoded: string): CodePointSet {
    const numbers = encoded.split(" ").map((digits) => Number.parseInt(digits, 36));
    const ranges: [number, number][] = [];
    let end = 0;
    for (let i = 0; i + 1 < numbers.length; i += 2) {
      const first = end + numbers[i];
      ranges.push([first, first + numbers[i + 1]]);
      end = first + numbers[i + 1] + 1;
    }
    return new CodePointSet(ranges);
  }

  get isEmpty(): boolean {
    return this.ranges.length === 0;
  }

  has(point: number): boolean {
    let low = 0;
    let high = this.ranges.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ranges[middle][1] < point) low = middle + 1;
      else high = middle;
    }
    return low < this.ranges.length && this.ranges[low][0] <= point;
  }

  or(other: CodePointSet): CodePointSet {
    return CodePointSet.of([...this.ranges, ...other.ranges]);
  }

  not(): CodePointSet {
    const ranges: [number, number][] = [];
    let next = 0;
    for (const [first, last] of this.ranges) {
      if (first > next) ranges.push([next, first - 1]);
      next = last + 1;
    }
    if (next <= LAST) ranges.push([next, LAST]);
    return new CodePointSet(ranges);
  }

  and(other: CodePointSet): CodePointSet {
    const ranges: [number, number][] = [];
    for (let i = 0, j = 0; i < this.ranges.length && j < other.ranges.length; ) {
      const [a, b] = [this.ranges[i], other.ranges[j]];
      const first = Math.max(a[0], b[0]);
      const last = Math.min(a[1], b[1]);
      if (first <= last) ranges.push([first, last]);
      if (a[1] < b[1]) i++;
      else j++;
    }
    return new CodePointSet(ranges);
  }

  isWithin(other: CodePointSet): boolean {
    return this.and(other.not()).isEmpty;
  }

  /** The set as a character class of a RegExp with the flag "u". */
  get source(): string {
    this.#source ??= this.#write();
    return this.#source;
  }

  #write(): string {
    // Texts have no lone surrogates, and classes with them are slow.
    const { ranges } = this.and(NO_SURROGATE);
    if (ranges.length === 1 && ranges[0][0] === ranges[0][1]) return escaped(ranges[0][0]);
    const parts = ranges.map(([first, last]) =>
      first === last ? escaped(first) : `${escaped(first)}-${escaped(last)}`,
    );
    return `[${parts.join("")}]`;
  }
}

const NO_SURROGATE = CodePointSet.of([
  [0, 0xd7ff],
  [0xe000, LAST],
]);
export const NO_CHARACTERS: CodePointSet = CodePointSet.of([]);
export const ANY_CHARACTER: CodePointSet = NO_CHARACTERS.not();

const classes = new Map<string, CodePointSet>();

function remember(key: string, encoded: () => CodePointSet): CodePointSet {
  const known = classes.get(key) ?? encoded();
  classes.set(key, known);
  return known;
}

/** A class as Rust's standard library or the crates of Hugging Face's tokenizers define it. */
export function characterClass(name: string & keyof typeof CLASSES): CodePointSet {
  return remember(name, () => CodePointSet.parse(CLASSES[name]));
}

/**
 * The set of Oniguruma's `\p{name}`: a general category, a group of them (L, M, ...) or a script; otherwise undefined.
 */
export function unicodeProperty(name: string): CodePointSet | undefined {
  const known = CATEGORIES[name] ?? SCRIPTS[name];
  if (known !== undefined) return remember(`\\p{${name}}`, () => CodePointSet.parse(known));
  if (!/^[LMNPSZ]$/.test(name)) return undefined; // C also includes unassigned characters
  const members = Object.keys(CATEGORIES).filter((category) => category.startsWith(name));
  return remember(`\\p{${name}}`, () =>
    CodePointSet.of(members.flatMap((m) => CodePointSet.parse(CATEGORIES[m]).ranges)),
  );
}

function escaped(point: number): string {
  return `\\u{${point.toString(16)}}`;
}

function codePoint(character: string): number {
  return character.codePointAt(0) as number;
}

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

/** The character of each byte. */
export const CHARACTER_OF_BYTE: readonly string[] = [...BYTE_OF_CHARACTER.keys()];

/** The UTF-8 bytes of a text, each as its character. */
export function toByteCharacters(text: string): string {
  let characters = "";
  for (const byte of Buffer.from(text, "utf8")) characters += CHARACTER_OF_BYTE[byte];
  return characters;
}

/** The bytes of a byte-level token; for a token with any other character, its own UTF-8 bytes. */
export function bytesOfToken(token: string): Uint8Array {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = BYTE_OF_CHARACTER.get(token[i]);
    if (byte === undefined) return Buffer.from(token, "utf8");
    bytes[i] = byte;
  }
  return bytes;
}
