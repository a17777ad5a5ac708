import type { FimTokens } from "../tokenizer/tokenizer.js";
import { Philox } from "../torch/philox.js";

/** Stream number of FIM's random generator, so that it is independent of other uses of the seed. */
const FIM_STREAM = 0xf1;

/** How documents are converted to fill-in-the-middle examples. */
export interface FimOptions {
  /** Share of documents that are converted. Seed-Coder: 0.5 in pre-training, 0.1 in continued pre-training. */
  readonly rate: number;
  /** "spm": suffix, prefix, middle (Seed-Coder); "psm": prefix, suffix, middle (StarCoder, Qwen2.5-Coder). */
  readonly format: "spm" | "psm";
}

/** A document split into three parts: `prefix + middle + suffix` is the document. */
export interface FimParts {
  readonly prefix: string;
  readonly middle: string;
  readonly suffix: string;
}

/**
 * Splits a document for fill-in-the-middle, or returns undefined to leave it whole. Two positions are chosen uniformly
 * among its characters, as in Seed-Coder, so that words are split, too. A pure function of (seed, index) and the text.
 *
 * @param index index of the document in its corpus
 */
export function splitForFim(text: string, rate: number, seed: number, index: number): FimParts | undefined {
  if (rate <= 0) return undefined;
  const random = new Philox(seed, FIM_STREAM, index);
  if (random.uniform() >= rate) return undefined;
  const cuts = [random.below(text.length + 1), random.below(text.length + 1)].map((at) => characterStart(text, at));
  const [from, to] = cuts.sort((a, b) => a - b);
  return { prefix: text.slice(0, from), middle: text.slice(from, to), suffix: text.slice(to) };
}

/** Encodes the parts as ids: `<fim-suffix> S <fim-prefix> P <fim-middle> M` for "spm". */
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

/** `at`, or one less if it is inside a surrogate pair. */
function characterStart(text: string, at: number): number {
  const code = text.charCodeAt(at);
  const inPair = at > 0 && code >= 0xdc00 && code <= 0xdfff && (text.charCodeAt(at - 1) & 0xfc00) === 0xd800;
  return inPair ? at - 1 : at;
}
