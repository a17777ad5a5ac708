import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { Philox } from "../torch/philox.js";
import { DiffusionError } from "./errors.js";

export interface TokenChoiceOptions {
  /** 0: the most likely token. Above: Gumbel noise of this strength on the logits. */
  temperature: number;
  /** Only the k most likely tokens. 0: all. */
  topK: number;
  /** Only the most likely tokens that together have this probability, at the temperature. 1: all; 0: the most likely. */
  topP: number;
  /** Only tokens at least this times as likely as the likeliest, at the temperature. 0 or absent: all. */
  minP?: number;
  seed: number;
}

/** A token per row and the model's probability of it: untempered and unfiltered, whatever the options. */
export interface TokenChoice {
  ids: number[];
  confidence: Float64Array;
  /** Nats of the model's distribution, untempered; only if asked for. */
  entropy?: Float64Array;
}

/** Numbers what is drawn: a draw depends on (seed, position, pass) only, not on what is decoded beside it. */
export interface DrawKey {
  position: number;
  pass: number;
}

const STREAM_GUMBEL = 0x67756d62; // "gumb"

/**
 * Chooses a token for every row of logits. Without temperature only the choices leave the device; with it the logits
 * do, and Gumbel noise is added in float64 on the host, so that a seed means the same on every device.
 *
 * @param logits [n, v], any float type; freed by the caller
 * @param keys what numbers each row's random numbers, [n]
 */
export async function chooseTokens(
  logits: Tensor,
  keys: readonly DrawKey[],
  options: TokenChoiceOptions,
  { entropy = false }: { entropy?: boolean } = {},
): Promise<TokenChoice> {
  const choice = options.temperature === 0 ? await mostLikely(logits) : await drawTokens(logits, keys, options);
  if (entropy) choice.entropy = await entropies(logits);
  return choice;
}

async function drawTokens(logits: Tensor, keys: readonly DrawKey[], options: TokenChoiceOptions): Promise<TokenChoice> {
  const rows = torch.scope(() => logits.detach().to({ dtype: "float32" }));
  const [n, vocabulary] = rows.shape;
  const values = (await rows.toTypedArrayAsync()) as Float32Array;
  rows.dispose();
  const choice: TokenChoice = { ids: [], confidence: new Float64Array(n) };
  for (let row = 0; row < n; row++) {
    const { position, pass } = keys[row];
    const random = gumbelStream(options.seed, { position, pass });
    const picked = sampleToken(values.subarray(row * vocabulary, (row + 1) * vocabulary), options, random);
    choice.ids.push(picked.id);
    choice.confidence[row] = picked.probability;
  }
  return choice;
}

/** The stream a row's noise comes from. */
export function gumbelStream(seed: number, { position, pass }: DrawKey): Philox {
  return new Philox(seed, STREAM_GUMBEL, position, pass);
}

/** -sum p ln p of each row of logits [n, v], in float64. */
async function entropies(logits: Tensor): Promise<Float64Array> {
  using result = torch.scope(() => entropyOfRows(logits));
  return (await result.toTypedArrayAsync()) as Float64Array;
}

/** -sum p ln p of each row of logits [n, v], float64 [n]; -Infinity among the logits counts nothing. */
export function entropyOfRows(logits: Tensor): Tensor {
  const logp = logits.detach().to({ dtype: "float64" }).logSoftmax(1);
  // At p = 0 the product is 0 times -Infinity.
  return logp.exp().mul(logp.clamp(-1e4)).sum([1]).neg();
}

async function mostLikely(logits: Tensor): Promise<TokenChoice> {
  const packed = torch.scope(() => {
    const values = logits.detach().to({ dtype: "float64" });
    const [highest, ids] = values.max(1, false) as [Tensor, Tensor];
    return torch.stack([highest.sub(values.logsumexp([1])).exp(), ids.to({ dtype: "float64" })]);
  });
  const host = (await packed.toTypedArrayAsync()) as Float64Array;
  packed.dispose();
  const n = host.length / 2;
  const confidence = host.slice(0, n);
  if (confidence.some(Number.isNaN)) failOnNaN();
  return { ids: [...host.subarray(n)], confidence };
}

/**
 * Draws one token: arg-max of logit / temperature + Gumbel noise, which is a sample of the tempered softmax, over the
 * tokens that top-k and top-p leave.
 *
 * @param logits [v]; -Infinity means never
 */
export function sampleToken(
  logits: Float32Array,
  options: Omit<TokenChoiceOptions, "seed">,
  random: Philox,
): { id: number; probability: number } {
  const { temperature } = options;
  const allowed = filterTokens(logits, options);
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
  if (id < 0 || Number.isNaN(probability)) failOnNaN();
  return { id, probability };
}

/** 1 where top-k and top-p leave a token; undefined where they leave all. */
function filterTokens(logits: Float32Array, options: Omit<TokenChoiceOptions, "seed">): Uint8Array | undefined {
  const { temperature, topK, topP, minP = 0 } = options;
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

function failOnNaN(): never {
  throw new DiffusionError("DIFFUSION_LOGITS", "the model's logits are not numbers (NaN): its weights are broken");
}
