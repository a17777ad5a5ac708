import { CodePointSet } from "./code-points.js";
import { canBeEmpty, parsePattern, toRegExpSource } from "./oniguruma.js";
import { checkCost } from "./pattern-cost.js";

/** A section of a text, [start, end, whether it is a match]; sections are in order and cover the whole text. */
export type Stretch = readonly [start: number, end: number, isMatch: boolean];

/** The pattern of a Split or Replace. */
export interface Pattern {
  (text: string): Stretch[];
  /** The matches if they cover the text: faster, and the usual case for patterns of words. */
  readonly cover?: (text: string) => string[] | undefined;
}

/** A pattern in tokenizer.json. */
export type PatternJson = { readonly String: string } | { readonly Regex: string };

/**
 * Opens a pattern of tokenizer.json. It finds the same matches as Rust.
 *
 * @throws PatternError for a regular expression whose matches may differ, or may take more than linear time
 */
export function openPattern(pattern: PatternJson): Pattern {
  if ("String" in pattern) return patternOf(pattern.String.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
  const known = opened.get(pattern.Regex);
  if (known) return known;
  const node = parsePattern(pattern.Regex);
  checkCost(node);
  const open = patternOf(toRegExpSource(node), toRegExpSource(node, LATIN), !canBeEmpty(node));
  if (opened.size >= MAX_OPENED) opened.clear();
  opened.set(pattern.Regex, open);
  return open;
}

/** Cache of compiled patterns, which are large; a process may open the same tokenizer several times. */
const opened = new Map<string, Pattern>();
const MAX_OPENED = 200;

/** Whether a supported pattern can match an empty text. */
export function isEmptyPattern(pattern: PatternJson): boolean {
  return "String" in pattern ? pattern.String === "" : canBeEmpty(parsePattern(pattern.Regex));
}

/** A pattern that matches each character of a set. */
export function openCharacters(set: CodePointSet): Pattern {
  const known = characters.get(set) ?? patternOf(set.source, set.and(LATIN).source);
  characters.set(set, known);
  return known;
}

const characters = new WeakMap<CodePointSet, Pattern>();

/** Inverts a pattern: matches become gaps and gaps become matches. */
export function invert(pattern: Pattern): Pattern {
  return (text) => pattern(text).map(([start, end, isMatch]) => [start, end, !isMatch] as const);
}

/** Latin-1, the characters of most source code, which V8 stores in one byte each. */
const LATIN = CodePointSet.of([[0, 0xff]]);

/**
 * @param source source of a RegExp with the flag "u"
 * @param latin the same for Latin-1 texts. V8 does not optimize expressions of more than 20,000 characters, a length
 *   that classes of letters reach; these are three times as fast.
 */
function patternOf(source: string, latin = source, takesCharacters = false): Pattern {
  const wide = new RegExp(source, "gu");
  const narrow = new RegExp(latin, "gu");
  const expressionFor = (text: string) => (/[^\0-\xff]/.test(text) ? wide : narrow);
  const find = (text: string): Stretch[] => {
    if (text === "") return [[0, 0, false]];
    const expression = expressionFor(text);
    const stretches: Stretch[] = [];
    let end = 0;
    let isFirst = true;
    expression.lastIndex = 0;
    for (let match = expression.exec(text); match; match = expression.exec(text)) {
      const start = match.index;
      const length = match[0].length;
      if (length === 0) {
        // As in Rust, an empty match directly after a match is skipped, and the search continues after the next
        // character.
        if (start === end && !isFirst) {
          expression.lastIndex = start + ((text.codePointAt(start) ?? 0) > 0xffff ? 2 : 1);
          if (expression.lastIndex > text.length) break;
          continue;
        }
        expression.lastIndex = start;
      }
      if (start !== end) stretches.push([end, start, false]);
      stretches.push([start, start + length, true]);
      end = start + length;
      isFirst = false;
    }
    if (end !== text.length) stretches.push([end, text.length, false]);
    return stretches;
  };
  if (!takesCharacters) return find;
  const cover = (text: string): string[] | undefined => {
    const words = text.match(expressionFor(text));
    let length = 0;
    for (const word of words ?? []) length += word.length;
    return length === text.length ? (words ?? []) : undefined;
  };
  return Object.assign(find, { cover });
}

/** Treatment of the matches when a text is split. */
export const BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"] as const;
export type Behavior = (typeof BEHAVIORS)[number];

/** Splits a text like Rust's NormalizedString::split; pieces may be empty. */
export function splitBy(text: string, pattern: Pattern, behavior: Behavior): [start: number, end: number][] {
  const stretches = pattern(text);
  const pieces: [number, number][] = [];
  if (behavior === "Isolated" || behavior === "Removed") {
    for (const [start, end, isMatch] of stretches) {
      if (behavior === "Isolated" || !isMatch) pieces.push([start, end]);
    }
    return pieces;
  }
  let previous = false;
  if (behavior === "MergedWithNext") {
    for (const [start, end, isMatch] of stretches.reverse()) {
      const next = pieces.at(-1);
      if (isMatch && !previous && next) next[0] = start;
      else pieces.push([start, end]);
      previous = isMatch;
    }
    return pieces.reverse();
  }
  for (const [start, end, isMatch] of stretches) {
    const last = pieces.at(-1);
    const joins = behavior === "Contiguous" ? isMatch === previous : isMatch && !previous;
    if (joins && last) last[1] = end;
    else pieces.push([start, end]);
    previous = isMatch;
  }
  return pieces;
}
