import type { DTypeLike, Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { type LogitChanges, processLogits } from "./logits-processors.js";
import { entropyOfRows, gumbelStream, type SamplingParams, sampleToken } from "./sample-token.js";

/** How the rows of one sequence are sampled. */
export interface RowParams extends Required<SamplingParams> {
  seed: number;
  /** Number of most likely tokens to report. */
  logprobs: number;
  entropy: boolean;
  /** Whether the mask token must not be sampled, as in denoising. */
  forbidMask: boolean;
  changes?: LogitChanges;
}

/** One row of logits to sample from. */
export interface SamplingRow {
  params: RowParams;
  /** With the seed, the key of the random numbers. */
  position: number;
  pass: number;
  /** A token whose logprob is computed, and nothing is sampled; -1: none. */
  candidate: number;
}

export interface SampledToken {
  id: number;
  /** Probability of the token: untempered and unfiltered, after the logits processors. */
  confidence: number;
  /** ln of that probability; NaN where the row's logits are NaN, or every token is forbidden. */
  logprob: number;
  /** 0 unless `params.entropy` is set. */
  entropy: number;
  candidateLogprob: number;
  top?: { id: number; logprob: number }[];
}

interface SamplerOutput {
  tokens: SampledToken[];
  /** ln sum exp of each row. */
  normalizer: Float64Array;
}

/**
 * Samples a token for every row of a batch. What all rows need is computed for all at once; draws, entropies, most likely
 * tokens and logits processors only for the rows that need them. Rows do not influence each other.
 *
 * @param logits [n, v], overwritten
 * @param maskId -1: none
 * @param native whether to use the CPU's operator
 */
export function sampleRows(
  logits: Tensor,
  rows: readonly SamplingRow[],
  maskId: number,
  native = logits.device === "cpu",
): SampledToken[] {
  return torch.scope(() =>
    torch.noGrad(() => {
      const changes = rows.map(({ params }) => params.changes);
      processLogits(logits, changes);
      if (maskId >= 0) forbidMask(logits.narrow(1, maskId, 1), rows);
      const { tokens, normalizer } = native ? sampleNative(logits, rows) : samplePortable(logits, rows);
      addTop(logits, rows, tokens, normalizer);
      return tokens;
    }),
  );
}

/** On the CPU one operator computes everything; what it draws equals {@link sampleToken}. */
function sampleNative(logits: Tensor, rows: readonly SamplingRow[]): SamplerOutput {
  const n = rows.length;
  const settings = new Float64Array(n * 8);
  rows.forEach(({ params: { temperature, topP, minP, topK, seed }, position, pass, candidate }, i) => {
    // Nothing is drawn for a row with a candidate.
    settings.set([candidate < 0 ? temperature : 0, topP, minP, topK, seed, position, pass, candidate], i * 8);
  });
  const packed = torch.ops.diffcoder.choose_tokens(
    logits.to({ dtype: "float32" }),
    torch.tensor(settings).view([n, 8]),
  ) as Tensor;
  const host = packed.toTypedArray() as Float64Array;
  const [ids, sampled, normalizer, entropy, candidates] = [0, 1, 2, 3, 4].map((i) => host.subarray(i * n, (i + 1) * n));
  const tokens = rows.map((_, i): SampledToken => {
    const logprob = sampled[i] - normalizer[i];
    const candidateLogprob = candidates[i] - normalizer[i];
    return { id: ids[i], confidence: Math.exp(logprob), logprob, entropy: entropy[i], candidateLogprob };
  });
  return { tokens, normalizer };
}

/** On other devices only what rows need is computed, and only logits to draw from are copied to the host. */
function samplePortable(logits: Tensor, rows: readonly SamplingRow[]): SamplerOutput {
  const [highest, ids, normalizer] = mostLikely(logits);
  const tokens = rows.map((_, i): SampledToken => {
    const logprob = highest[i] - normalizer[i];
    return { id: ids[i], confidence: Math.exp(logprob), logprob, entropy: 0, candidateLogprob: 0 };
  });
  draw(logits, rows, tokens, normalizer);
  addCandidates(logits, rows, tokens, normalizer);
  addEntropies(logits, rows, tokens);
  return { tokens, normalizer };
}

/** Per row the highest logit, its id and ln sum exp of all, in float64. */
function mostLikely(logits: Tensor): [Float64Array, Float64Array, Float64Array] {
  const values = logits.to({ dtype: "float64" });
  const [highest, ids] = values.max(1, false) as [Tensor, Tensor];
  const packed = torch.stack([highest, ids.to({ dtype: "float64" }), values.logsumexp([1])]);
  const host = packed.toTypedArray() as Float64Array;
  const n = host.length / 3;
  return [host.subarray(0, n), host.subarray(n, 2 * n), host.subarray(2 * n)];
}

/** Rows with a temperature, on the host: the noise must be the same on every device. */
function draw(logits: Tensor, rows: readonly SamplingRow[], tokens: SampledToken[], normalizer: Float64Array): void {
  const drawn = indicesOf(rows, ({ params, candidate }) => params.temperature > 0 && candidate < 0).filter(
    (i) => !Number.isNaN(tokens[i].logprob),
  );
  if (drawn.length === 0) return;
  const vocabulary = logits.size(1);
  const values = select(logits, drawn).to({ dtype: "float32" }).contiguous().toTypedArray() as Float32Array;
  drawn.forEach((i, k) => {
    const { params } = rows[i];
    const row = values.subarray(k * vocabulary, (k + 1) * vocabulary);
    const { id, probability } = sampleToken(row, params, gumbelStream(params.seed, rows[i]));
    Object.assign(tokens[i], { id, confidence: probability, logprob: row[id] - normalizer[i] });
  });
}

function addCandidates(
  logits: Tensor,
  rows: readonly SamplingRow[],
  tokens: SampledToken[],
  normalizer: Float64Array,
): void {
  const indices = indicesOf(rows, ({ candidate }) => candidate >= 0);
  if (indices.length === 0) return;
  const candidates = indices.map((i) => rows[i].candidate);
  const ids = toDevice(candidates, logits, "int64");
  const values = select(logits, indices).gather(1, ids.unsqueeze(1)).to({ dtype: "float64" }).toTypedArray();
  indices.forEach((i, k) => {
    tokens[i].candidateLogprob = Number(values[k]) - normalizer[i];
  });
}

function addEntropies(logits: Tensor, rows: readonly SamplingRow[], tokens: SampledToken[]): void {
  const indices = indicesOf(rows, ({ params }) => params.entropy);
  if (indices.length === 0) return;
  const values = entropyOfRows(select(logits, indices)).toTypedArray();
  indices.forEach((i, k) => {
    tokens[i].entropy = Number(values[k]);
  });
}

function forbidMask(column: Tensor, rows: readonly SamplingRow[]): void {
  const denoised = indicesOf(rows, ({ params }) => params.forbidMask);
  if (denoised.length === rows.length) column.fill_(Number.NEGATIVE_INFINITY);
  else if (denoised.length > 0) {
    column.indexFill_(0, toDevice(denoised, column, "int64"), Number.NEGATIVE_INFINITY);
  }
}

function addTop(logits: Tensor, rows: readonly SamplingRow[], tokens: SampledToken[], normalizer: Float64Array): void {
  const indices = indicesOf(rows, ({ params }) => params.logprobs > 0);
  if (indices.length === 0) return;
  const most = Math.min(logits.size(1), Math.max(...indices.map((i) => rows[i].params.logprobs)));
  const [values, ids] = select(logits, indices).topk(most, 1) as [Tensor, Tensor];
  const [hostValues, hostIds] = [values.to({ dtype: "float64" }).toTypedArray(), ids.toTypedArray()];
  indices.forEach((i, k) => {
    const top = Array.from({ length: Math.min(most, rows[i].params.logprobs) }, (_, j) => ({
      id: Number(hostIds[k * most + j]),
      logprob: Number(hostValues[k * most + j]) - normalizer[i],
    }));
    tokens[i].top = top.filter(({ logprob }) => logprob > Number.NEGATIVE_INFINITY);
  });
}

/** Indices of the rows that satisfy a condition. */
function indicesOf(rows: readonly SamplingRow[], condition: (row: SamplingRow) => boolean): number[] {
  return [...rows.keys()].filter((i) => condition(rows[i]));
}

/** Copies numbers to a tensor's device; the host does not wait for the copy. */
function toDevice(numbers: readonly number[], { device }: Tensor, dtype: DTypeLike): Tensor {
  return torch.tensor(numbers as number[], { dtype, device, pinMemory: device.startsWith("cuda") });
}

/** These rows of the logits; all of them without a copy. */
function select(logits: Tensor, indices: readonly number[]): Tensor {
  if (indices.length === logits.size(0)) return logits;
  return logits.indexSelect(0, toDevice(indices, logits, "int64"));
}
