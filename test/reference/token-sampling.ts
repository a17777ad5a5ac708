import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";

// The plain counterpart of lib/engine/sample.ts and sample-token.ts.

export interface TokenSampling {
  /** 0: the most likely token. Above: Gumbel noise of this strength on the logits. */
  temperature: number;
  /** Only the k most likely tokens. 0: all. */
  topK: number;
  /** Only the most likely tokens that together have this probability, at the temperature. 1: all; 0: the most likely. */
  topP: number;
  /** Only tokens at least this fraction as likely as the most likely one, at the temperature. 0: all. */
  minP: number;
  seed: number;
}

/** A token per row and the model's probability of it: untempered and unfiltered, whatever the options. */
interface SampledTokens {
  ids: number[];
  confidence: Float64Array;
  /** Nats of the model's distribution, untempered. */
  entropy?: Float64Array;
}

const STREAM_GUMBEL = 0x67756d62; // "gumb"

/**
 * Samples a token for every row of logits. A draw depends on (seed, position, pass) only.
 *
 * @param logits [n, v], any float type; freed by the caller
 * @param keys [n]
 */
export function sampleTokens(
  logits: Tensor,
  keys: readonly { position: number; pass: number }[],
  options: Partial<TokenSampling>,
  withEntropy = false,
): SampledTokens {
  const { temperature = 0, topK = 0, topP = 1, minP = 0, seed = 0 } = options;
  using exact = torch.scope(() => logits.detach().to({ dtype: "float64" }));
  const values = exact.tolist() as number[][];
  const result: SampledTokens = { ids: [], confidence: new Float64Array(keys.length) };
  for (const [row, { position, pass }] of keys.entries()) {
    const random = new torch.Philox(seed, STREAM_GUMBEL, position, pass);
    const id =
      temperature === 0 ? argmax(values[row]) : drawToken(values[row], { temperature, topK, topP, minP }, random);
    result.ids.push(id);
    result.confidence[row] = Math.exp(logSoftmax(values[row])[id]);
  }
  if (withEntropy) {
    result.entropy = Float64Array.from(values, (row) =>
      logSoftmax(row).reduce((sum, logp) => sum - (logp > -1e4 ? Math.exp(logp) * logp : 0), 0),
    );
  }
  return result;
}

/** The arg-max of logit / temperature + Gumbel noise over the tokens that the filters leave. */
function drawToken(
  logits: readonly number[],
  { temperature, topK, topP, minP }: Omit<TokenSampling, "seed">,
  random: torch.Philox,
): number {
  const highest = Math.max(...logits);
  const tempered = logits.map((logit) => Math.exp((logit - highest) / temperature));
  const order = logits.map((_, v) => v).sort((a, b) => logits[b] - logits[a] || a - b);
  const first = topK > 0 ? order.slice(0, topK) : order;
  const total = first.reduce((sum, v) => sum + tempered[v], 0);
  const allowed = new Set<number>();
  let covered = 0;
  for (const v of first) {
    if (allowed.size > 0 && topP < 1 && covered >= topP * total) break;
    if (tempered[v] < minP) break;
    allowed.add(v);
    covered += tempered[v];
  }
  // Noise is drawn for filtered tokens, too: a token's noise does not depend on the filters.
  const uniform = random.fillUniform(new Float64Array(logits.length));
  const scores = logits.map((logit, v) => logit / temperature - Math.log(-Math.log(uniform[v] + 2 ** -54)));
  return argmax(scores.map((score, v) => (allowed.has(v) ? score : Number.NEGATIVE_INFINITY)));
}

function argmax(values: readonly number[]): number {
  return values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
}

function logSoftmax(logits: readonly number[]): number[] {
  const highest = Math.max(...logits);
  const normalizer = highest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - highest), 0));
  return logits.map((logit) => logit - normalizer);
}
