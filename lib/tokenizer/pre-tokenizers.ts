import * as z from "zod";
import { CodePointSet, characterClass, toByteCharacters } from "./code-points.js";
import {
  type ComponentJson,
  character,
  componentPattern,
  patternJson,
  sequenceOf,
  settings,
  unsupported,
} from "./component.js";
import { BEHAVIORS, type Behavior, invert, openCharacters, openPattern, type Pattern, splitBy } from "./pattern.js";

/** Splits a section of text into non-empty words. `isFirst`: the section is at the start of the text. */
export type PreTokenizer = (text: string, isFirst: boolean) => string[];

/** The stages of a pre-tokenizer. */
export interface PreTokenizerStages {
  /** The stages that work on characters. */
  readonly stages: readonly PreTokenizer[];
  /** Whether a last step, which is not among the stages, converts each byte to one character. */
  readonly endsInBytes: boolean;
  /** Whether the result depends on `isFirst`. */
  readonly looksAtStart: boolean;
}

/** The pattern of ByteLevel with `use_regex`: GPT-2's words. */
const GPT2_WORDS = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/**
 * Opens the pre-tokenizer of tokenizer.json.
 *
 * @throws ComponentError for an unknown pre-tokenizer or invalid settings
 */
export function openPreTokenizer(json: ComponentJson | null): PreTokenizerStages {
  const stages: PreTokenizer[] = [];
  let looksAtStart = false;
  let endsInBytes = false;
  const add = (one: ComponentJson, place: string) => {
    if (one.type === "Sequence") {
      for (const [item, at] of sequenceOf(one, place, "pretokenizers")) add(item, at);
      return;
    }
    if (endsInBytes) stages.push((text) => [toByteCharacters(text)]);
    endsInBytes = one.type === "ByteLevel";
    if (one.type === "Metaspace" && one.prepend_scheme === "first") {
      // Later stages would need the position of each word in the original text.
      if (stages.length > 0) throw unsupported(place, 'prepend_scheme "first" is only supported in the first stage');
      looksAtStart = true;
    }
    stages.push(...openStage(one, place));
  };
  if (json) add(json, "pre_tokenizer");
  return { stages, endsInBytes, looksAtStart };
}

/** Runs all stages over a section of text. */
export function runStages(stages: readonly PreTokenizer[], text: string, isFirst: boolean): string[] {
  let words = [text];
  for (const stage of stages) {
    words = words.length === 1 ? stage(words[0], isFirst) : words.flatMap((word) => stage(word, false));
  }
  return words;
}

function openStage(json: ComponentJson, place: string): PreTokenizer[] {
  switch (json.type) {
    case "ByteLevel": {
      const { add_prefix_space, use_regex } = settings(json, place, {
        add_prefix_space: z.boolean(),
        trim_offsets: z.boolean(), // offsets are not computed here
        use_regex: z.boolean().default(true),
      });
      const stages: PreTokenizer[] = [];
      if (add_prefix_space) stages.push((text) => [text.startsWith(" ") ? text : ` ${text}`]);
      if (use_regex) stages.push(splitter(openPattern({ Regex: GPT2_WORDS }), "Isolated"));
      return stages;
    }
    case "Split": {
      const {
        pattern,
        behavior,
        invert: isInverted,
      } = settings(json, place, {
        pattern: patternJson,
        behavior: z.enum(BEHAVIORS),
        invert: z.boolean(),
      });
      const find = componentPattern(pattern, place);
      return [splitter(isInverted ? invert(find) : find, behavior)];
    }
    case "Digits": {
      const { individual_digits } = settings(json, place, { individual_digits: z.boolean() });
      return [splitter(openCharacters(characterClass("numeric")), individual_digits ? "Isolated" : "Contiguous")];
    }
    case "Punctuation": {
      const { behavior } = settings(json, place, { behavior: z.enum(BEHAVIORS).default("Isolated") });
      return [splitter(openCharacters(characterClass("punctuation")), behavior)];
    }
    case "Whitespace":
      return [splitter(invert(openWords()), "Removed")];
    case "WhitespaceSplit":
      return [splitter(openCharacters(characterClass("whitespace")), "Removed")];
    case "BertPreTokenizer":
      return [
        splitter(openCharacters(characterClass("whitespace")), "Removed"),
        splitter(openCharacters(characterClass("punctuation")), "Isolated"),
      ];
    case "CharDelimiterSplit": {
      const { delimiter } = settings(json, place, { delimiter: character });
      return [splitter(openCharacters(CodePointSet.characters(delimiter)), "Removed")];
    }
    case "FixedLength": {
      const { length } = settings(json, place, {
        length: z
          .int()
          .min(1)
          .max(2 ** 31)
          .default(5),
      });
      return [
        (text) => {
          const characters = [...text];
          const words: string[] = [];
          for (let i = 0; i < characters.length; i += length) words.push(characters.slice(i, i + length).join(""));
          return words;
        },
      ];
    }
    case "Metaspace":
      return metaspace(json, place);
    default:
      throw unsupported(place, `the pre-tokenizer ${JSON.stringify(json.type)} is not supported`);
  }
}

export const metaspaceSettings = {
  replacement: character,
  prepend_scheme: z.enum(["always", "first", "never"]).default("always"),
  add_prefix_space: z.boolean().nullish(),
  split: z.boolean().nullish(),
};

function metaspace(json: ComponentJson, place: string): PreTokenizer[] {
  const { replacement, prepend_scheme, add_prefix_space, split } = settings(json, place, metaspaceSettings);
  if (add_prefix_space === false && prepend_scheme !== "never") {
    throw unsupported(place, `add_prefix_space false contradicts prepend_scheme "${prepend_scheme}"`);
  }
  const mark: PreTokenizer = (text, isFirst) => {
    const marked = text.replaceAll(" ", replacement);
    const isPrepended = prepend_scheme === "always" || (prepend_scheme === "first" && isFirst);
    return [isPrepended && !marked.startsWith(replacement) ? replacement + marked : marked];
  };
  if (split === false) return [mark];
  return [mark, splitter(openCharacters(CodePointSet.characters(replacement)), "MergedWithNext")];
}

let words: RegExp | undefined;

/** A pattern for runs of word characters, and runs of other characters except white space. */
function openWords(): Pattern {
  words ??= new RegExp(
    `${characterClass("word").source}+|${characterClass("word").or(characterClass("whitespace")).not().source}+`,
    "gu",
  );
  const expression = words;
  return (text) => {
    const stretches: [number, number, boolean][] = [];
    let end = 0;
    for (const { index, 0: match } of text.matchAll(expression)) {
      if (index > end) stretches.push([end, index, false]);
      end = index + match.length;
      stretches.push([index, end, true]);
    }
    if (end < text.length) stretches.push([end, text.length, false]);
    return stretches;
  };
}

function splitter(pattern: Pattern, behavior: Behavior): PreTokenizer {
  const cover = behavior === "Isolated" ? pattern.cover : undefined;
  return (text) => {
    const covering = cover?.(text);
    if (covering) return covering;
    const words: string[] = [];
    for (const [start, end] of splitBy(text, pattern, behavior)) if (end > start) words.push(text.slice(start, end));
    return words;
  };
}
