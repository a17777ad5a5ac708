import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Philox } from "stable-diffcoder";
import type { Tokenizer } from "stable-diffcoder/tokenizer";

/** ln X ~ N(ln median, sigma^2); the mean is median x exp(sigma^2 / 2). */
export interface LogNormal {
  median: number;
  sigma: number;
}

/** Tokens of prompts and answers, each cut to `least` .. `most`. */
export interface LengthShape {
  prompt: LogNormal;
  output: LogNormal;
  least: number;
  most: number;
}

/**
 * Long-tailed on both sides, answers longer than prompts, as in chats people have shared: means of 158 and 220 tokens
 * before the cut. Not drawn from anybody's data.
 */
export const CHAT_LENGTHS: LengthShape = {
  prompt: { median: 96, sigma: 1 },
  output: { median: 160, sigma: 0.8 },
  least: 4,
  most: 768,
};

/** One request. */
export interface WorkItem {
  text: string;
  ids: number[];
  /** To generate. */
  tokens: number;
}

/** Both medians and the cut times `factor`, for models that would take too long over the whole. */
export function scaled(shape: LengthShape, factor: number): LengthShape {
  const times = ({ median, sigma }: LogNormal): LogNormal => ({ median: median * factor, sigma });
  return {
    prompt: times(shape.prompt),
    output: times(shape.output),
    least: shape.least,
    most: Math.ceil(shape.most * factor),
  };
}

/** A length; uses two numbers of the stream (Box and Muller). */
export function drawLength({ median, sigma }: LogNormal, { least, most }: LengthShape, random: Philox): number {
  const normal = Math.sqrt(-2 * Math.log(1 - random.uniform())) * Math.cos(2 * Math.PI * random.uniform());
  return Math.min(most, Math.max(least, Math.round(median * Math.exp(sigma * normal))));
}

/** Seconds from the start at which requests arrive, at `rate` a second on average (Poisson), before `seconds` are over. */
export function poissonArrivals(rate: number, seconds: number, random: Philox): number[] {
  const arrivals: number[] = [];
  for (let at = 0; ; ) {
    at += -Math.log(1 - random.uniform()) / rate;
    if (at >= seconds) return arrivals;
    arrivals.push(at);
  }
}

/** Requests to complete code: prompts begin at random lines of this library's own sources, lengths are random. */
export class Workload {
  readonly shape: LengthShape;
  readonly #tokenizer: Tokenizer;
  readonly #seed: number;
  readonly #sources: string[];
  #next = 0;

  /** The same seed gives the same requests, one after the other. */
  constructor(tokenizer: Tokenizer, shape: LengthShape, seed: number) {
    this.shape = shape;
    this.#tokenizer = tokenizer;
    this.#seed = seed;
    this.#sources = sources();
  }

  /** Makes so many requests now, so that whoever sends them has less to do beside what is measured. */
  prepared(count: number): () => WorkItem {
    const items = Array.from({ length: count }, () => this.next());
    return () => items.shift() ?? this.next();
  }

  next(): WorkItem {
    const random = new Philox(this.#seed, this.#next++);
    const promptTokens = drawLength(this.shape.prompt, this.shape, random);
    const tokens = drawLength(this.shape.output, this.shape, random);
    return { ...this.prompt(promptTokens, random), tokens };
  }

  /** Code of about so many tokens: cut by tokens, then encoded again, since what is sent is text. */
  prompt(tokens: number, random: Philox): { text: string; ids: number[] } {
    let code = "";
    while (code.length < tokens * CHARACTERS_PER_TOKEN) {
      const source = this.#sources[random.below(this.#sources.length)];
      const lines = source.split("\n");
      const from = lines.slice(random.below(lines.length)).join("\n");
      code += from.slice(0, tokens * CHARACTERS_PER_TOKEN - code.length);
    }
    const text = this.#tokenizer.decode(this.#tokenizer.encode(code, PLAIN).slice(0, tokens));
    return { text, ids: this.#tokenizer.encode(text, PLAIN) };
  }

  /** Mean of the answers' lengths as drawn, over the first requests. */
  meanOutput(count = 256): number {
    let sum = 0;
    for (let i = 0; i < count; i++) {
      const random = new Philox(this.#seed, i);
      drawLength(this.shape.prompt, this.shape, random);
      sum += drawLength(this.shape.output, this.shape, random);
    }
    return sum / count;
  }
}

const PLAIN = { addSpecialTokens: false };
/** Enough of them for a token. */
const CHARACTERS_PER_TOKEN = 8;

function sources(): string[] {
  const folder = fileURLToPath(new URL("../../lib", import.meta.url));
  const files = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"));
  // The names of special tokens would be read as those tokens.
  const plain = (code: string) => code.replace(/<[[|][^<>\n]*[\]|]>/g, "");
  return files.sort().map((name) => plain(readFileSync(join(folder, name), "utf8")));
}
