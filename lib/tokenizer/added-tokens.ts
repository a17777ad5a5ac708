import { characterClass } from "./code-points.js";
import { unsupported } from "./component.js";
import type { Normalizer } from "./normalizers.js";

/** An added token in tokenizer.json, which is extracted from the text before all other steps. */
export interface AddedToken {
  readonly content: string;
  /** Matches only between characters that are not part of a word. */
  readonly single_word: boolean;
  /** Includes the white space to its left. */
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  /** Searched for in the normalized text, in its normalized form. */
  readonly normalized: boolean;
  readonly special: boolean;
}

/** A section of the normalized text, or the id of an added token. `isFirst`: it is at the start of the text. */
export type Section = { readonly text: string; readonly isFirst: boolean } | number;

/** Finds tokens of one phase in a text. */
type Finder = (text: string, isFirst: boolean) => Section[];

/**
 * The added tokens. Ids are assigned as in Rust, regardless of `id` in tokenizer.json: the model's id for a token of
 * its vocabulary, else the next free one after the vocabulary.
 */
export class AddedVocabulary {
  readonly #idOf = new Map<string, number>();
  readonly #byId = new Map<number, AddedToken>();
  /** Normalized forms by id, for tokens whose form in the normalized text differs. */
  readonly #normalForms = new Map<number, string>();
  readonly #normalizer: Normalizer | undefined;
  readonly #finders = new Map<boolean, [Finder | undefined, Finder | undefined]>();

  /** @param normalizer the normalizer of tokenizer.json */
  constructor(normalizer: Normalizer | undefined) {
    this.#normalizer = normalizer;
  }

  /**
   * Adds tokens, in this order.
   *
   * @param vocabularySize number of tokens of the model
   * @param modelId the model's id of a token
   */
  add(tokens: readonly AddedToken[], vocabularySize: number, modelId: (token: string) => number | undefined): void {
    let highest = -1;
    for (const id of this.#byId.keys()) highest = Math.max(highest, id);
    let next = Math.max(highest + 1, vocabularySize);
    for (const token of tokens) {
      if (token.content === "") continue;
      const id = this.#idOf.get(token.content) ?? modelId(token.content) ?? next++;
      const normal = token.normalized && this.#normalizer ? this.#normalizer(token.content) : token.content;
      if (normal !== token.content) this.#normalForms.set(id, normal);
      this.#idOf.set(token.content, id);
      this.#byId.set(id, token);
    }
    this.#checkNormalForms();
    this.#finders.clear();
  }

  /** Rejects normalized forms for which Rust's result depends on the order of a hash table. */
  #checkNormalForms(): void {
    const byForm = new Map<string, AddedToken>();
    for (const [id, token] of this.#byId) {
      if (!token.normalized) continue;
      const form = this.decoded(id) ?? "";
      const name = JSON.stringify(token.content);
      if (form === "") throw unsupported("added_tokens", `the normalizer reduces ${name} to an empty text`);
      const other = byForm.get(form)?.content;
      if (other !== undefined) {
        throw unsupported("added_tokens", `the normalizer maps ${name} and ${JSON.stringify(other)} to the same text`);
      }
      byForm.set(form, token);
    }
  }

  get tokens(): ReadonlyMap<number, AddedToken> {
    return this.#byId;
  }

  idOf(content: string): number | undefined {
    return this.#idOf.get(content);
  }

  /** The token that the decoder receives for an id. */
  decoded(id: number): string | undefined {
    return this.#normalForms.get(id) ?? this.#byId.get(id)?.content;
  }

  /**
   * Normalizes a text and splits it at the added tokens: first at those that are searched for in the original text,
   * then at those that are searched for in the normalized text in between.
   */
  split(text: string, parseSpecialTokens: boolean): Section[] {
    const [raw, normalized] = this.#findersFor(parseSpecialTokens);
    const sections: Section[] = [];
    for (const section of raw ? raw(text, true) : [{ text, isFirst: true }]) {
      if (typeof section === "number") {
        sections.push(section);
        continue;
      }
      const normal = this.#normalizer ? this.#normalizer(section.text) : section.text;
      if (normalized) sections.push(...normalized(normal, section.isFirst));
      else sections.push({ text: normal, isFirst: section.isFirst });
    }
    return sections.filter((section) => typeof section === "number" || section.text !== "");
  }

  #findersFor(parseSpecialTokens: boolean) {
    const known = this.#finders.get(parseSpecialTokens);
    if (known) return known;
    const open = (isNormalized: boolean) => {
      const found = [...this.#byId].filter(([, token]) => token.normalized === isNormalized);
      const named = found.map(([id, token]) => ({
        id,
        token,
        name: isNormalized ? (this.decoded(id) ?? "") : token.content,
      }));
      return openFinder(named, parseSpecialTokens);
    };
    const finders: [Finder | undefined, Finder | undefined] = [open(false), open(true)];
    this.#finders.set(parseSpecialTokens, finders);
    return finders;
  }
}

/**
 * Finds the leftmost, longest tokens. Special tokens that are not to be parsed are still matched and skipped, as in
 * Rust, so that no other token is found within them.
 */
function openFinder(
  named: readonly { readonly id: number; readonly token: AddedToken; readonly name: string }[],
  parseSpecialTokens: boolean,
): Finder | undefined {
  const byName = new Map(named.filter(({ name }) => name !== "").map((one) => [one.name, one]));
  const isRead = ({ token }: { token: AddedToken }) => parseSpecialTokens || !token.special;
  if (![...byName.values()].some(isRead)) return undefined;
  const names = [...byName.keys()].sort((a, b) => b.length - a.length);
  const expression = new RegExp(names.map((name) => name.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&")).join("|"), "g");
  return (text, isFirst) => {
    const sections: Section[] = [];
    let end = 0;
    const addText = (start: number, stop: number) => {
      if (start < stop) sections.push({ text: text.slice(start, stop), isFirst: isFirst && start === 0 });
    };
    for (const match of text.matchAll(expression)) {
      const { id, token } = byName.get(match[0]) as { id: number; token: AddedToken };
      let start = match.index;
      let stop = start + match[0].length;
      if (token.special && !parseSpecialTokens) continue;
      if (token.single_word && (endsInWord(text, start) || startsInWord(text, stop))) continue;
      if (token.lstrip) {
        let from = start;
        while (from > 0 && isSpace(text.charCodeAt(from - 1))) from--;
        start = Math.max(from, end);
      }
      if (token.rstrip) while (stop < text.length && isSpace(text.charCodeAt(stop))) stop++;
      addText(end, start);
      // A token that overlaps the white space included in the previous one is dropped, as in Rust.
      if (start < stop) sections.push(id);
      end = stop;
    }
    addText(end, text.length);
    return sections;
  };
}

/** White space has no character beyond U+FFFF. */
function isSpace(code: number): boolean {
  return characterClass("whitespace").has(code);
}

function startsInWord(text: string, at: number): boolean {
  const point = text.codePointAt(at);
  return point !== undefined && characterClass("word").has(point);
}

function endsInWord(text: string, at: number): boolean {
  const isPair = at > 1 && (text.codePointAt(at - 2) ?? 0) > 0xffff;
  return at > 0 && startsInWord(text, at - (isPair ? 2 : 1));
}
