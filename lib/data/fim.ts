import type { FimTokens } from "../tokenizer/tokenizer.js";
import { Philox } from "../torch/philox.js";

/** Stream number of the generator that decides FIM, so that it shares no numbers with other choices of the seed. */
const FIM_STREAM = 0xf1;

/** How documents are turned into fill-in-the-middle examples. */
export interface FimOptions {
  /** Share of documents that are turned. Seed-Coder: 0.5 in pre-training, 0.1 in continued pre-training. */
  readonly rate: number;
  /** "spm": suffix, prefix, middle (Seed-Coder); "psm": prefix, suffix, middle (StarCoder, Qwen2.5-Coder). */
  readonly format: "spm" | "psm";
}

/** A document cut in three: `prefix + middle + suffix` is the document. */
export interface FimParts {
  readonly prefix: string;
  readonly middle: string;
  readonly suffix: string;
}

/**
 * Cuts a document for fill-in-the-middle, or leaves it whole (undefined). Two characters are chosen uniformly, as in
 * Seed-Coder's character-level split, so that words are cut too. A pure function of (seed, index) and the text.
 *
 * @param index the document's number in its corpus
 */
export function splitForFim(text: string, rate: number, seed: number, index: number): FimParts | undefined {
  if (rate <= 0) return undefined;
  const random = new Philox(seed, FIM_STREAM, index);
  if (random.uniform() >= rate) return undefined;
  const cuts = [random.below(text.length + 1), random.below(text.length + 1)].map((at) => characterStart(text, at));
  const [from, to] = cuts.sort((a, b) => a - b);
  return { prefix: text.slice(0, from), middle: text.slice(from, to), suffix: text.slice(to) };
}

/** The parts as ids: `<fim-suffix> S <fim-prefix> P <fim-middle> M` for "spm". */
export function encodeFim(
  parts: FimParts,
  format: FimOptions["format"],
  tokens: FimTokens,
  encode: (text: string) => number[],
): number[] {
  const prefix = [tokens.prefix, ...encode(parts.prefix)];
  const suffix = [tokens.suffix, ...encode(parts.suffix)];
  const outer = format === "spm" ? suffix.concat(prefix) : prefix.concat(suffix);
  return outer.concat(tokens.middle, encode(parts.middle));
}

/** `at`, or one less where it would cut a surrogate pair. */
function characterStart(text: string, at: number): number {
  const code = text.charCodeAt(at);
  const inPair = at > 0 && code >= 0xdc00 && code <= 0xdfff && (text.charCodeAt(at - 1) & 0xfc00) === 0xd800;
  return inPair ? at - 1 : at;
}
