import * as z from "zod";
import { CodePointSet, characterClass, toByteCharacters } from "./code-points.js";
import {
  type ComponentJson,
  componentPattern,
  patternJson,
  sequenceOf,
  settings,
  text,
  unsupported,
} from "./component.js";
import { isEmptyPattern, openCharacters } from "./pattern.js";
import { RECENT_LOWER } from "./unicode-data.js";

/** Rewrites a section of text before it is split. */
export type Normalizer = (text: string) => string;

/**
 * Opens the normalizer of tokenizer.json.
 *
 * @throws ComponentError for an unknown normalizer or invalid settings
 */
export function openNormalizer(json: ComponentJson, place = "normalizer"): Normalizer {
  switch (json.type) {
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD": {
      const form = json.type;
      return (given) => normalizeForm(given, form);
    }
    case "Lowercase":
      return lowercase;
    case "StripAccents":
      return remover(characterClass("combining"));
    case "Nmt":
      return nmt();
    case "ByteLevel":
      return toByteCharacters;
    case "Strip": {
      const { strip_left, strip_right } = settings(json, place, { strip_left: z.boolean(), strip_right: z.boolean() });
      const space = characterClass("whitespace").source;
      const left = new RegExp(`^${space}+`, "u");
      return (given) => {
        const start = strip_left ? (left.exec(given)?.[0].length ?? 0) : 0;
        let end = given.length;
        // White space has no character beyond U+FFFF.
        while (strip_right && end > start && characterClass("whitespace").has(given.charCodeAt(end - 1))) end--;
        return given.slice(start, end);
      };
    }
    case "Prepend": {
      const { prepend } = settings(json, place, { prepend: text });
      return (given) => (given === "" ? "" : prepend + given);
    }
    case "Replace": {
      const { pattern, content } = settings(json, place, { pattern: patternJson, content: text });
      const find = componentPattern(pattern, place);
      if (isEmptyPattern(pattern)) {
        // Rust miscounts the characters in this case, and a later stage repeats some.
        throw unsupported(`${place}.pattern`, "a pattern that matches an empty text is not supported");
      }
      return (given) =>
        find(given)
          .map(([start, end, isMatch]) => (isMatch ? content : given.slice(start, end)))
          .join("");
    }
    case "BertNormalizer":
      return bert(json, place);
    case "Sequence": {
      const stages = sequenceOf(json, place, "normalizers").map(([item, at]) => openNormalizer(item, at));
      return (given) => stages.reduce((current, stage) => stage(current), given);
    }
    default:
      throw unsupported(place, `the normalizer ${JSON.stringify(json.type)} is not supported`);
  }
}

function bert(json: ComponentJson, place: string): Normalizer {
  const {
    clean_text,
    handle_chinese_chars,
    strip_accents,
    lowercase: lower,
  } = settings(json, place, {
    clean_text: z.boolean(),
    handle_chinese_chars: z.boolean(),
    strip_accents: z.boolean().nullish(),
    lowercase: z.boolean(),
  });
  const stages: Normalizer[] = [];
  if (clean_text) {
    const space = new RegExp(characterClass("whitespace").source, "gu");
    stages.push(remover(characterClass("control")), remover(REPLACED));
    stages.push((given) => given.replace(space, " "));
  }
  if (handle_chinese_chars) {
    const ideograph = new RegExp(CHINESE.source, "gu");
    stages.push((given) => given.replace(ideograph, " $& "));
  }
  if (strip_accents ?? lower) {
    const strip = remover(characterClass("nonspacing"));
    stages.push((given) => strip(normalizeForm(given, "NFD")));
  }
  if (lower) stages.push(lowercase);
  return (given) => stages.reduce((current, stage) => stage(current), given);
}

const REPLACED = CodePointSet.characters("\0\ufffd");

/** The blocks that BERT surrounds with spaces. */
const CHINESE = CodePointSet.of([
  [0x4e00, 0x9fff],
  [0x3400, 0x4dbf],
  [0x20000, 0x2a6df],
  [0x2a700, 0x2b73f],
  [0x2b740, 0x2b81f],
  [0x2b920, 0x2ceaf],
  [0xf900, 0xfaff],
  [0x2f800, 0x2fa1f],
]);

function nmt(): Normalizer {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these characters are removed
  const remove = /[\u0001-\u0008\u000b\u000e-\u001f\u007f\u008f\u009f]/g;
  const space = /[\t\n\f\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]/g;
  return (given) => given.replace(remove, "").replace(space, " ");
}

function remover(set: CodePointSet): Normalizer {
  const find = openCharacters(set);
  return (given) => {
    let kept = "";
    for (const [start, end, isMatch] of find(given)) if (!isMatch) kept += given.slice(start, end);
    return kept;
  };
}

let recent: RegExp | undefined;

/** Characters that are unknown to the Rust library are unchanged, independently of Node's Unicode version. */
function normalizeForm(given: string, form: "NFC" | "NFD" | "NFKC" | "NFKD"): string {
  recent ??= new RegExp(`(${characterClass("recent").source}+)`, "u");
  if (!recent.test(given)) return given.normalize(form);
  const parts = given.split(recent);
  return parts.map((part, i) => (i % 2 === 0 ? part.normalize(form) : part)).join("");
}

/** Character by character, because Rust does not handle final sigmas. */
function lowercase(given: string): string {
  if (/^[\0-\x7f]*$/.test(given)) return given.toLowerCase();
  let lower = "";
  for (const one of given) {
    const point = one.codePointAt(0) as number;
    if (!characterClass("recent").has(point)) lower += one.toLowerCase();
    else lower += String.fromCodePoint(RECENT_LOWER.get(point) ?? point);
  }
  return lower;
}
