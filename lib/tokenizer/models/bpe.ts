import * as z from "zod";
import { CHARACTER_OF_BYTE, toByteCharacters } from "../code-points.js";
import { type ComponentJson, invalid, settings, text, unsupported } from "../component.js";
import { TokenizerError } from "../tokenizer-error.js";
import { PairMerger } from "./pair-merger.js";
import { type TokenModel, Vocabulary } from "./vocabulary.js";

/** Words up to this length are merged without a heap, which is faster. */
const SHORT_BYTES = 64;

const bpeSettings = {
  dropout: z.number().min(0).max(1).nullish(),
  unk_token: text.nullish(),
  continuing_subword_prefix: text.nullish(),
  end_of_word_suffix: text.nullish(),
  fuse_unk: z.boolean().nullish(),
  byte_fallback: z.boolean().nullish(),
  ignore_merges: z.boolean().nullish(),
};

/** @throws ComponentError for invalid settings, dropout, and merges of tokens that are not in the vocabulary */
export function openBpe(json: ComponentJson): TokenModel {
  const given = settings(json, "model", bpeSettings);
  if (given.dropout)
    throw unsupported("model.dropout", `dropout ${given.dropout} makes ids random; expected 0 or null`);
  const vocabulary = Vocabulary.read(json.vocab, "model.vocab");
  const merger = new PairMerger(
    readMerges(json.merges, vocabulary, given.continuing_subword_prefix ?? ""),
    vocabulary.highestId,
  );
  const wholeWord = given.ignore_merges ? (word: string) => vocabulary.idOf(word) : () => undefined;
  const encode = (word: string): number[] => {
    const whole = wholeWord(word);
    return whole === undefined ? merger.merge(symbols(word, vocabulary, given)) : [whole];
  };
  if (given.continuing_subword_prefix || given.end_of_word_suffix) return { vocabulary, encode };
  const byteIds = CHARACTER_OF_BYTE.map((character) => vocabulary.idOf(character) ?? -1);
  if (byteIds.includes(-1)) return { vocabulary, encode };
  const encodeBytes = (word: string): number[] => {
    const whole = given.ignore_merges ? vocabulary.idOf(toByteCharacters(word)) : undefined;
    if (whole !== undefined) return [whole];
    const ids = Array.from(Buffer.from(word, "utf8"), (byte) => byteIds[byte]);
    return ids.length <= SHORT_BYTES ? merger.mergeShort(ids) : merger.merge(ids);
  };
  return { vocabulary, encode, encodeBytes };
}

/** The ids of a word's characters, before merging. */
function symbols(
  word: string,
  vocabulary: Vocabulary,
  given: { readonly [K in keyof typeof bpeSettings]?: z.infer<(typeof bpeSettings)[K]> },
): number[] {
  const prefix = given.continuing_subword_prefix ?? "";
  const suffix = given.end_of_word_suffix ?? "";
  const ids: number[] = [];
  // An unknown token is emitted before the next known character. As in Rust, byte tokens are emitted before it.
  let unknown: number | undefined;
  let end = 0;
  for (const character of word) {
    const isFirst = end === 0;
    end += character.length;
    const symbol = `${isFirst ? "" : prefix}${character}${end === word.length ? suffix : ""}`;
    const id = vocabulary.idOf(symbol);
    if (id !== undefined) {
      if (unknown !== undefined) ids.push(unknown);
      unknown = undefined;
      ids.push(id);
      continue;
    }
    const bytes = given.byte_fallback ? vocabulary.byteIds(symbol) : undefined;
    if (bytes) {
      for (const byte of bytes) ids.push(byte);
      continue;
    }
    if (given.unk_token === undefined || given.unk_token === null) continue; // left out, as in Rust
    if (unknown !== undefined && given.fuse_unk) continue;
    if (unknown !== undefined) ids.push(unknown);
    unknown = vocabulary.idOf(given.unk_token);
    if (unknown === undefined) {
      const what = `${JSON.stringify(symbol)} has no token, and the unknown token ${JSON.stringify(given.unk_token)}`;
      throw new TokenizerError("TOKENIZER_TEXT", `${what} is not in the vocabulary`);
    }
  }
  if (unknown !== undefined) ids.push(unknown);
  return ids;
}

function readMerges(json: unknown, vocabulary: Vocabulary, prefix: string): [number, number, number][] {
  if (!Array.isArray(json)) throw invalid("model.merges", "expected a list");
  const prefixBytes = Buffer.byteLength(prefix);
  const isText = typeof json[0] === "string";
  const merges: [number, number, number][] = [];
  for (const [i, merge] of json.entries()) {
    const place = `model.merges.${i}`;
    if (isText && typeof merge === "string" && merge.startsWith("#version")) continue;
    const parts: unknown = isText && typeof merge === "string" ? merge.split(" ") : merge;
    if (!isPair(parts) || isText !== (typeof merge === "string")) {
      throw invalid(place, `${JSON.stringify(merge)?.slice(0, 100)} is not a pair of tokens ("a b" or ["a", "b"])`);
    }
    const [left, right] = parts;
    const rest = prefixBytes === 0 ? right : Buffer.from(right, "utf8").subarray(prefixBytes).toString("utf8");
    const ids = [left, right, left + rest].map((token) => {
      const id = vocabulary.idOf(token);
      if (id === undefined) throw invalid(place, `${JSON.stringify(token.slice(0, 100))} is not in the vocabulary`);
      return id;
    });
    merges.push(ids as [number, number, number]);
  }
  return merges;
}

function isPair(parts: unknown): parts is [string, string] {
  return Array.isArray(parts) && parts.length === 2 && typeof parts[0] === "string" && typeof parts[1] === "string";
}
