import { CodePointSet } from "./code-points.js";
import { canBeEmpty, parsePattern, toRegExpSource } from "./oniguruma.js";
import { checkCost } from "./pattern-cost.js";

/** Where a pattern matches in a text: [start, end, whether it is a match], in order, covering the whole text. */
export type Stretch = readonly [start: number, end: number, isMatch: boolean];

/** What a Split or Replace cuts a text by. */
export interface Pattern {
  (text: string): Stretch[];
  /** The matches, if they cover the text. Faster, and the usual case for patterns of words. */
  readonly cover?: (text: string) => string[] | undefined;
}

/** How tokenizer.json writes a pattern. */
export type PatternJson = { readonly String: string } | { readonly Regex: string };

/**
 * A pattern as tokenizer.json writes it, of which Rust's matches are found.
 *
 * @throws PatternError for a regular expression that is not proved to give them, or not in bounded time
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

/** Patterns are large once compiled, and a process opens the same tokenizer more than once. */
const opened = new Map<string, Pattern>();
const MAX_OPENED = 200;

/** Whether a pattern that can be opened can match without taking a character. */
export function isEmptyPattern(pattern: PatternJson): boolean {
  return "String" in pattern ? pattern.String === "" : canBeEmpty(parsePattern(pattern.Regex));
}

/** Each character of a set is a match. */
export function openCharacters(set: CodePointSet): Pattern {
  const known = characters.get(set) ?? patternOf(set.source, set.and(LATIN).source);
  characters.set(set, known);
  return known;
}

const characters = new WeakMap<CodePointSet, Pattern>();

/** Runs of `pieces` are what is between matches: as a pattern, inverted. */
export function invert(pattern: Pattern): Pattern {
  return (text) => pattern(text).map(([start, end, isMatch]) => [start, end, !isMatch] as const);
}

/** What most texts of programs are made of: V8 keeps a character of theirs in a byte. */
const LATIN = CodePointSet.of([[0, 0xff]]);

/**
 * @param source of a RegExp with the flag "u"
 * @param latin the same for texts of Latin-1. V8 does not optimise expressions of more than 20,000 characters, and
 * classes of letters make them so long; these are three times as fast.
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
        // As in Rust: nothing is matched right after a match, and the search goes on behind the next character.
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

/** What becomes of the matches when a text is split. */
export const BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"] as const;
export type Behavior = (typeof BEHAVIORS)[number];

/** The pieces of a text, as Rust's NormalizedString::split cuts it; empty ones may be among them. */
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
