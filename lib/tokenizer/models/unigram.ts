import * as z from "zod";
import { type ComponentJson, invalid, settings, text } from "../component.js";
import { TokenizerError } from "../tokenizer-error.js";
import { type TokenModel, Vocabulary } from "./vocabulary.js";

/** Score penalty of an unknown character, relative to the worst token. */
const UNKNOWN_PENALTY = 10;

/** The most likely tokens of a word, by the Viterbi algorithm. */
export function openUnigram(json: ComponentJson): TokenModel {
  const { vocab, unk_id, byte_fallback } = settings(json, "model", {
    vocab: z.array(z.tuple([text, z.number()])),
    unk_id: z.int().min(0).nullish(),
    byte_fallback: z.boolean().default(false),
  });
  if (unk_id !== undefined && unk_id !== null && unk_id >= vocab.length) {
    throw invalid("model.unk_id", `${unk_id} is not in the vocabulary of ${vocab.length} tokens`);
  }
  const vocabulary = new Vocabulary(
    vocab.map(([token], id) => [token, id] as const),
    "model.vocab",
  );
  const unknown = unk_id ?? undefined;
  const pieces = new Map(vocab.map(([token, score], id) => [token, { id, score }]));
  if (pieces.size < vocab.length) throw invalid("model.vocab", "a token is repeated");
  const longest = vocab.reduce((length, [token]) => Math.max(length, token.length), 0);
  const unknownScore =
    vocab.reduce((lowest, [, score]) => Math.min(lowest, score), Number.POSITIVE_INFINITY) - UNKNOWN_PENALTY;

  /** The parts of the best path; consecutive unknown characters form one part. */
  const bestParts = (word: string): string[] => {
    const { length } = word;
    const scores = new Float64Array(length + 1);
    const starts = new Int32Array(length + 1).fill(-1);
    const isUnknown = new Uint8Array(length + 1);
    const offer = (start: number, end: number, score: number, unk: boolean) => {
      if (starts[end] >= 0 && score <= scores[end]) return;
      scores[end] = score;
      starts[end] = start;
      isUnknown[end] = unk ? 1 : 0;
    };
    for (let start = 0; start < length; ) {
      const width = (word.codePointAt(start) as number) > 0xffff ? 2 : 1;
      let isKnown = false;
      for (let end = start + 1; end <= Math.min(length, start + longest); end++) {
        const piece = pieces.get(word.slice(start, end));
        if (!piece) continue;
        offer(start, end, piece.score + scores[start], piece.id === unknown);
        if (end === start + width) isKnown = true;
      }
      if (!isKnown) {
        if (unknown === undefined) {
          const what = JSON.stringify(word.slice(start, start + width));
          throw new TokenizerError("TOKENIZER_TEXT", `${what} has no token, and the model has no unknown token`);
        }
        offer(start, start + width, unknownScore + scores[start], true);
      }
      start += width;
    }
    const parts: string[] = [];
    for (let end = length, wasUnknown = false; end > 0; end = starts[end]) {
      const part = word.slice(starts[end], end);
      if (isUnknown[end] === 1 && wasUnknown) parts.push(part + (parts.pop() as string));
      else parts.push(part);
      wasUnknown = isUnknown[end] === 1;
    }
    return parts.reverse();
  };

  const encode = (word: string): number[] =>
    bestParts(word).flatMap((part) => {
      const id = vocabulary.idOf(part);
      if (id !== undefined) return [id];
      const bytes = byte_fallback ? vocabulary.byteIds(part) : undefined;
      return bytes ?? [unknown as number];
    });
  return { vocabulary, encode };
}
