import type { Tensor } from "../torch/index.js";
import { Philox } from "../torch/philox.js";
import { EngineError } from "./errors.js";

/** How a token is sampled from a row of logits. */
export interface SamplingParams {
  /** 0: the most likely token. Above: Gumbel noise of this strength on the logits. */
  temperature: number;
  /** Only the k most likely tokens. 0: all. */
  topK: number;
  /** Only the most likely tokens that together have this probability, at the temperature. 1: all; 0: the most likely. */
  topP: number;
  /** Only tokens at least this fraction as likely as the most likely one, at the temperature. 0 or absent: all. */
  minP?: number;
}

const STREAM_GUMBEL = 0x67756d62; // "gumb"
const STREAM_SEED = 0x73656564; // "seed"

/**
 * Samples one token: arg-max of logit / temperature + Gumbel noise, which is a sample of the tempered softmax, over the
 * tokens that the filters leave. The noise is float64, so that a seed gives the same token on every device. The CPU's
 * operator `choose_tokens` computes the same, bit for bit.
 *
 * @param logits [v]; a token with -Infinity is never sampled
 * @returns the token, and the probability that the model gives it: untempered and unfiltered
 * @throws EngineError ENGINE_MODEL for NaN, or where every logit is -Infinity
 */
export function sampleToken(
  logits: Float32Array,
  params: SamplingParams,
  random: Philox,
): { id: number; probability: number } {
  const { temperature } = params;
  const allowed = filterTokens(logits, params);
  let id = -1;
  let best = Number.NEGATIVE_INFINITY;
  let highest = Number.NEGATIVE_INFINITY;
  // Drawn for filtered tokens too: a token's noise must not depend on the filters.
  const uniform = random.fillUniform(new Float64Array(logits.length));
  for (let v = 0; v < logits.length; v++) {
    const gumbel = -Math.log(-Math.log(uniform[v] + 2 ** -54));
    if (logits[v] > highest) highest = logits[v];
    if (allowed && !allowed[v]) continue;
    const score = logits[v] / temperature + gumbel;
    if (score > best) {
      best = score;
      id = v;
    }
  }
  let sum = 0;
  for (let v = 0; v < logits.length; v++) sum += Math.exp(logits[v] - highest);
  const probability = Math.exp(logits[id] - highest) / sum;
  if (id < 0 || Number.isNaN(probability)) {
    throw new EngineError("ENGINE_MODEL", "the model's logits are NaN, or every token is forbidden");
  }
  return { id, probability };
}

/** The random numbers of a row: a draw depends on (seed, position, pass) only, not on the rest of the batch. */
export function gumbelStream(seed: number, { position, pass }: { position: number; pass: number }): Philox {
  return new Philox(seed, STREAM_GUMBEL, position, pass);
}

/**
 * The sampling seed of a sequence: `seed + index`, modulo 2^64. Draws are keyed by 53 bits, as many as a double holds.
 * Seeds in [0, 2^53) are their own key. Larger and negative ones are hashed to a key, so that seeds which differ in any of
 * the 64 bits draw differently.
 *
 * @param seed a signed integer of 64 bits
 */
export function sequenceSeed(seed: number | bigint, index: number): number {
  const exact = BigInt.asIntN(64, BigInt(seed) + BigInt(index));
  if (exact >= 0n && exact <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(exact);
  const random = new Philox(exact, STREAM_SEED);
  return (random.uint32() >>> 5) * 2 ** 26 + (random.uint32() >>> 6);
}

/** -sum p ln p of each row of logits [n, v], float64 [n]; logits of -Infinity contribute nothing. */
export function entropyOfRows(logits: Tensor): Tensor {
  const logp = logits.detach().to({ dtype: "float64" }).logSoftmax(1);
  // At p = 0 the product is 0 times -Infinity.
  return logp.exp().mul(logp.clamp(-1e4)).sum([1]).neg();
}

/** 1 where top-k, top-p and min-p leave a token; undefined where they leave all. */
function filterTokens(logits: Float32Array, params: SamplingParams): Uint8Array | undefined {
  const { temperature, topK, topP, minP = 0 } = params;
  if (topK <= 0 && topP >= 1) return minP > 0 ? aboveMinP(logits, minP, temperature) : undefined;
  const order = new Uint32Array(logits.length).map((_, v) => v).sort((a, b) => logits[b] - logits[a] || a - b);
  const count = topK > 0 ? Math.min(topK, order.length) : order.length;
  const allowed = new Uint8Array(logits.length);
  const highest = logits[order[0]];
  let total = 0;
  for (let i = 0; i < count; i++) total += Math.exp((logits[order[i]] - highest) / temperature);
  let covered = 0;
  for (let i = 0; i < count && (i === 0 || covered < topP * total); i++) {
    const relative = Math.exp((logits[order[i]] - highest) / temperature);
    if (relative < minP) break;
    allowed[order[i]] = 1;
    covered += relative;
  }
  return allowed;
}

function aboveMinP(logits: Float32Array, minP: number, temperature: number): Uint8Array {
  let highest = Number.NEGATIVE_INFINITY;
  for (const value of logits) if (value > highest) highest = value;
  return Uint8Array.from(logits, (value) => (Math.exp((value - highest) / temperature) >= minP ? 1 : 0));
}
