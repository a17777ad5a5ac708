import { ANY_CHARACTER, CodePointSet, characterClass, unicodeProperty } from "./code-points.js";

/** A parsed pattern. `set` matches one character. */
export type PatternNode =
  | { readonly kind: "set"; readonly set: CodePointSet }
  | { readonly kind: "sequence"; readonly items: readonly PatternNode[] }
  | { readonly kind: "choice"; readonly branches: readonly PatternNode[] }
  | {
      readonly kind: "repeat";
      readonly item: PatternNode;
      readonly min: number;
      readonly max: number;
      readonly mode: Mode;
    }
  | { readonly kind: "look"; readonly ahead: boolean; readonly negative: boolean; readonly item: PatternNode }
  | { readonly kind: "edge"; readonly source: string };

type Mode = "greedy" | "lazy" | "possessive";

/** An unsupported feature of a pattern; the message has the feature and its position. */
export class PatternError extends Error {}

const MAX_LENGTH = 10_000;
const MAX_DEPTH = 50;
const MAX_COUNT = 1000;

/**
 * Parses the subset of Oniguruma's regular expressions (Ruby's syntax) that tokenizers use: characters, classes with
 * `&&`, properties, groups, alternatives, quantifiers, look-around, `(?i:` for ASCII letters.
 *
 * @throws PatternError for anything else
 */
export function parsePattern(source: string): PatternNode {
  if (source.length > MAX_LENGTH) throw new PatternError(`it has ${source.length} characters (at most ${MAX_LENGTH})`);
  return new Parser(source).parse();
}

/** Whether a pattern can match an empty text. */
export function canBeEmpty(node: PatternNode): boolean {
  if (node.kind === "set") return false;
  if (node.kind === "sequence") return node.items.every(canBeEmpty);
  if (node.kind === "choice") return node.branches.some(canBeEmpty);
  return node.kind !== "repeat" || node.min === 0 || canBeEmpty(node.item);
}

/**
 * Converts a pattern to the source of a RegExp with the flag "u". Classes are written as ranges, so that they do not
 * depend on Node's Unicode version.
 *
 * @param within the characters that can occur in texts
 */
export function toRegExpSource(node: PatternNode, within: CodePointSet = ANY_CHARACTER): string {
  let groups = 0;
  const write = (one: PatternNode): string => {
    switch (one.kind) {
      case "set":
        return (within === ANY_CHARACTER ? one.set : one.set.and(within)).source;
      case "sequence":
        return one.items.map((item) => (item.kind === "choice" ? `(?:${write(item)})` : write(item))).join("");
      case "choice":
        return one.branches.map(write).join("|");
      case "look":
        return `(?${one.ahead ? "" : "<"}${one.negative ? "!" : "="}${write(one.item)})`;
      case "edge":
        return one.source;
      case "repeat": {
        const { min, max, mode } = one;
        const atom = one.item.kind === "set" ? write(one.item) : undefined;
        // A look-ahead never backtracks into its match, so it implements a possessive quantifier.
        const group = mode === "possessive" ? ++groups : 0;
        const counted = `${atom ?? `(?:${write(one.item)})`}{${min},${max === Number.POSITIVE_INFINITY ? "" : max}}`;
        return mode === "possessive" ? `(?=(${counted}))\\${group}(?:)` : `${counted}${mode === "lazy" ? "?" : ""}`;
      }
    }
  };
  return write(node);
}

class Parser {
  readonly #source: string;
  #at = 0;
  #depth = 0;

  constructor(source: string) {
    this.#source = source;
  }

  parse(): PatternNode {
    const node = this.#choice(false);
    if (this.#at < this.#source.length) throw this.#unsupported("an unmatched parenthesis");
    return node;
  }

  #choice(ignoreCase: boolean): PatternNode {
    if (++this.#depth > MAX_DEPTH) throw this.#unsupported(`groups nested more than ${MAX_DEPTH} deep`);
    const branches = [this.#sequence(ignoreCase)];
    while (this.#take("|")) branches.push(this.#sequence(ignoreCase));
    this.#depth--;
    if (branches.length === 1) return branches[0];
    // An alternative of single characters is converted to a class, so that a quantifier may follow.
    const sets = branches.map((branch) => (branch.kind === "set" ? branch.set : undefined));
    if (sets.every((set) => set !== undefined)) return { kind: "set", set: sets.reduce((a, b) => a.or(b)) };
    return { kind: "choice", branches };
  }

  #sequence(ignoreCase: boolean): PatternNode {
    const items: PatternNode[] = [];
    let folded = "";
    while (this.#at < this.#source.length && !/[|)]/.test(this.#peek())) {
      const from = this.#at;
      const item = this.#quantified(this.#atom(ignoreCase));
      items.push(item);
      if (!ignoreCase) continue;
      // Oniguruma folds these pairs to one character (ß, ligatures).
      folded += this.#source
        .slice(from, this.#at)
        .toLowerCase()
        .replace(/[^a-z]/g, "");
      if (/ss|ff|fi|fl|st/.test(folded)) throw this.#unsupported("case-insensitive letters that fold to one character");
    }
    return items.length === 1 ? items[0] : { kind: "sequence", items };
  }

  #quantified(item: PatternNode): PatternNode {
    const counts = /^(?:[*+?]|\{(\d*)(,?)(\d*)\})/.exec(this.#source.slice(this.#at, this.#at + 24));
    if (!counts || counts[0] === "{}" || counts[0] === "{,}") return item;
    if (item.kind === "look" || item.kind === "edge")
      throw this.#unsupported("a quantifier after a zero-width assertion");
    this.#at += counts[0].length;
    const [text, low, comma, high] = counts;
    const min = text === "+" ? 1 : text.startsWith("{") ? Number(low) : 0;
    let max = Number.POSITIVE_INFINITY;
    if (text === "?") max = 1;
    else if (text.startsWith("{") && (comma === "" || high !== "")) max = comma === "" ? min : Number(high);
    if (min > max || min > MAX_COUNT || (max > MAX_COUNT && max !== Number.POSITIVE_INFINITY)) {
      throw this.#unsupported(`the quantifier ${text}`);
    }
    let mode: Mode = "greedy";
    if (this.#take("?")) {
      if (text.startsWith("{") && comma === "") throw this.#unsupported(`the quantifier ${text}?`);
      mode = "lazy";
    } else if (!text.startsWith("{") && this.#take("+")) {
      mode = "possessive";
    }
    if (/[*+?{]/.test(this.#peek())) throw this.#unsupported("a quantifier after a quantifier");
    return { kind: "repeat", item, min, max, mode };
  }

  #atom(ignoreCase: boolean): PatternNode {
    if (this.#take("(")) return this.#group(ignoreCase);
    if (this.#take("[")) return { kind: "set", set: this.#class(ignoreCase) };
    if (this.#take(".")) return { kind: "set", set: CodePointSet.characters("\n").not() };
    if (this.#take("\\")) return this.#escape(ignoreCase);
    if (/[*+?^$]/.test(this.#peek())) throw this.#unsupported(`${this.#peek()} here`);
    return { kind: "set", set: this.#letter(this.#character(), ignoreCase) };
  }

  #group(ignoreCase: boolean): PatternNode {
    const look = /^\?(<?)([=!])/.exec(this.#source.slice(this.#at, this.#at + 3));
    if (look) this.#at += look[0].length;
    let inner = ignoreCase;
    if (!look && this.#take("?")) {
      if (this.#take("i:")) inner = true;
      else if (this.#take("-i:")) inner = false;
      else if (!this.#take(":")) throw this.#unsupported("this kind of group");
    }
    const item = this.#choice(inner);
    if (!this.#take(")")) throw this.#unsupported("an unclosed parenthesis");
    return look ? { kind: "look", ahead: look[1] === "", negative: look[2] === "!", item } : item;
  }

  #escape(ignoreCase: boolean): PatternNode {
    if (this.#take("A")) return { kind: "edge", source: "^" };
    if (this.#take("z")) return { kind: "edge", source: "$" };
    return { kind: "set", set: this.#classEscape() ?? this.#letter(this.#escapedCharacter(), ignoreCase) };
  }

  /** Parses `\s`, `\p{L}` and similar, after the backslash; undefined for a single character. */
  #classEscape(): CodePointSet | undefined {
    const property = /^([pP])\{(\^?)(\w+)\}/.exec(this.#source.slice(this.#at, this.#at + 40));
    if (property) {
      const [text, letter, caret, name] = property;
      const set = unicodeProperty(name);
      if (!set) throw this.#unsupported(`the property ${name}`);
      this.#at += text.length;
      return (letter === "P") !== (caret === "^") ? set.not() : set;
    }
    const letter = this.#peek();
    const open = CLASS_ESCAPES.get(letter.toLowerCase());
    if (!open) return undefined;
    this.#at++;
    return letter === letter.toLowerCase() ? open() : open().not();
  }

  #escapedCharacter(): number {
    const code = /^(?:u([0-9a-fA-F]{4})|x\{([0-9a-fA-F]{1,6})\}|x([0-7][0-9a-fA-F]))/.exec(
      this.#source.slice(this.#at, this.#at + 10),
    );
    if (code) {
      this.#at += code[0].length;
      const point = Number.parseInt(code[1] ?? code[2] ?? code[3], 16);
      if (point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) throw this.#unsupported(`the character ${code[0]}`);
      return point;
    }
    const control = { n: 10, r: 13, t: 9, f: 12, v: 11, a: 7, e: 27 }[this.#peek()];
    if (control === undefined && /[\w]|[^\0-\x7f]|^$/.test(this.#peek())) throw this.#unsupported(`\\${this.#peek()}`);
    const character = this.#character();
    return control ?? character;
  }

  /** Parses a bracketed class, after its opening bracket. */
  #class(ignoreCase: boolean): CodePointSet {
    if (++this.#depth > MAX_DEPTH) throw this.#unsupported(`classes nested more than ${MAX_DEPTH} deep`);
    const isNegated = this.#take("^");
    if (this.#peek() === "]" || this.#peek() === ":") throw this.#unsupported(`[${this.#peek()}`);
    let whole: CodePointSet | undefined;
    let ranges: CodePointSet[] = [];
    const close = () => {
      const set = CodePointSet.of(ranges.flatMap((one) => one.ranges));
      whole = whole ? whole.and(set) : set;
      ranges = [];
    };
    while (!this.#take("]")) {
      if (this.#take("&&")) close();
      else ranges.push(this.#classItem(ignoreCase));
    }
    close();
    this.#depth--;
    const set = whole ?? CodePointSet.of([]);
    return isNegated ? set.not() : set;
  }

  #classItem(ignoreCase: boolean): CodePointSet {
    if (this.#take("[")) return this.#class(ignoreCase);
    if (this.#at >= this.#source.length) throw this.#unsupported("an unclosed class");
    const isEscaped = this.#take("\\");
    const named = isEscaped ? this.#classEscape() : undefined;
    if (named) {
      if (ignoreCase) throw this.#unsupported("a case-insensitive class of many letters");
      return named;
    }
    const first = isEscaped ? this.#escapedCharacter() : this.#character();
    if (this.#peek() !== "-" || this.#source[this.#at + 1] === "]") return this.#letter(first, ignoreCase);
    this.#at++;
    if (this.#peek() === "[") throw this.#unsupported("a range that ends with a class");
    const lastEscaped = this.#take("\\");
    if (lastEscaped && /[pPsSdDwW]/.test(this.#peek())) throw this.#unsupported("a range that ends with a class");
    const last = lastEscaped ? this.#escapedCharacter() : this.#character();
    if (last < first) throw this.#unsupported("an empty range");
    if (ignoreCase) throw this.#unsupported("a case-insensitive range");
    return CodePointSet.of([[first, last]]);
  }

  /**
   * The set of one character; with `ignoreCase`, its upper case, its lower case and other characters with the same
   * folding.
   */
  #letter(point: number, ignoreCase: boolean): CodePointSet {
    const character = String.fromCodePoint(point);
    if (!ignoreCase) return CodePointSet.characters(character);
    if (point > 0x7f) throw this.#unsupported(`case-insensitive ${character}`);
    const more = { s: "\u017f", k: "\u212a" }[character.toLowerCase()] ?? "";
    return CodePointSet.characters(character.toLowerCase() + character.toUpperCase() + more);
  }

  #character(): number {
    const point = this.#source.codePointAt(this.#at);
    if (point === undefined) throw this.#unsupported("an end within an escape");
    this.#at += point > 0xffff ? 2 : 1;
    return point;
  }

  #peek(): string {
    return this.#source[this.#at] ?? "";
  }

  #take(text: string): boolean {
    if (!this.#source.startsWith(text, this.#at)) return false;
    this.#at += text.length;
    return true;
  }

  #unsupported(what: string): PatternError {
    return new PatternError(`${what} is not supported (at character ${this.#at} of ${JSON.stringify(this.#source)})`);
  }
}

const CLASS_ESCAPES: ReadonlyMap<string, () => CodePointSet> = new Map([
  ["s", () => characterClass("whitespace")],
  ["d", () => unicodeProperty("Nd") ?? ANY_CHARACTER],
  ["w", () => characterClass("onigurumaWord")],
]);
