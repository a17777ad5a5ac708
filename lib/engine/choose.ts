import { entropyOfRows, gumbelStream, sampleToken } from "../diffusion/token-choice.js";
import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";

/** Changes of logits before anything else is done with them. */
export interface Adjustments {
  /** Added, by token id; -Infinity forbids. */
  bias: ReadonlyMap<number, number>;
  /** Divides positive logits and multiplies negative ones of the `repeated` ids, before the bias. */
  repetition: number;
  repeated: ReadonlySet<number>;
}

/** How a sequence chooses tokens. */
export interface RowSettings {
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  seed: number;
  /** How many of the likeliest tokens to report. */
  logprobs: number;
  entropy: boolean;
  /** Whether the mask is no token to choose, as in denoising. */
  forbidMask: boolean;
  adjust?: Adjustments;
}

/** One row of logits. */
export interface ChoiceRow {
  settings: RowSettings;
  /** What the draw depends on, with the seed. */
  position: number;
  pass: number;
  /** A token whose logprob is wanted instead of a choice; -1: none. */
  candidate: number;
}

export interface RowChoice {
  id: number;
  /** Probability of the token: untempered and unfiltered, after adjustments. */
  confidence: number;
  /** NaN when the row's logits are no numbers, or all are forbidden. */
  logprob: number;
  /** 0 unless asked for. */
  entropy: number;
  candidateLogprob: number;
  top?: { id: number; logprob: number }[];
}

/**
 * Chooses a token for every row of a batch. What all rows need is done for all at once; what some ask for (draws, entropies,
 * likeliest tokens, adjustments) for those alone. Rows do not influence each other.
 *
 * @param logits [n, v], overwritten
 * @param maskId -1: none
 * @param native whether to use the CPU's operator
 */
export function chooseRows(
  logits: Tensor,
  rows: readonly ChoiceRow[],
  maskId: number,
  native = logits.device === "cpu",
): RowChoice[] {
  return torch.scope(() =>
    torch.noGrad(() => {
      adjust(logits, rows);
      if (maskId >= 0) forbidMask(logits.narrow(1, maskId, 1), rows);
      const { choices, normaliser } = native ? chooseHere(logits, rows) : chooseThere(logits, rows);
      addTop(logits, rows, choices, normaliser);
      return choices;
    }),
  );
}

interface Choices {
  choices: RowChoice[];
  /** ln sum exp of each row. */
  normaliser: Float64Array;
}

/** On the CPU one operator does it all, and equals {@link sampleToken} in what it draws. */
function chooseHere(logits: Tensor, rows: readonly ChoiceRow[]): Choices {
  const n = rows.length;
  const settings = new Float64Array(n * 8);
  rows.forEach(({ settings: { temperature, topP, minP, topK, seed }, position, pass, candidate }, i) => {
    // Where a candidate's probability is wanted nothing is chosen.
    settings.set([candidate < 0 ? temperature : 0, topP, minP, topK, seed, position, pass, candidate], i * 8);
  });
  const packed = torch.ops.diffcoder.choose_tokens(
    logits.to({ dtype: "float32" }),
    torch.tensor(settings).view([n, 8]),
  ) as Tensor;
  const host = packed.toTypedArray() as Float64Array;
  const [ids, chosen, normaliser, entropy, candidates] = [0, 1, 2, 3, 4].map((i) => host.subarray(i * n, (i + 1) * n));
  const choices = rows.map((_, i): RowChoice => {
    const logprob = chosen[i] - normaliser[i];
    const candidateLogprob = candidates[i] - normaliser[i];
    return { id: ids[i], confidence: Math.exp(logprob), logprob, entropy: entropy[i], candidateLogprob };
  });
  return { choices, normaliser };
}

/** On other devices only what rows ask for is computed, and only what is drawn from crosses to the host. */
function chooseThere(logits: Tensor, rows: readonly ChoiceRow[]): Choices {
  const [highest, ids, normaliser] = likeliest(logits);
  const choices = rows.map((_, i): RowChoice => {
    const logprob = highest[i] - normaliser[i];
    return { id: ids[i], confidence: Math.exp(logprob), logprob, entropy: 0, candidateLogprob: 0 };
  });
  draw(logits, rows, choices, normaliser);
  addCandidates(logits, rows, choices, normaliser);
  addEntropies(logits, rows, choices);
  return { choices, normaliser };
}

function forbidMask(column: Tensor, rows: readonly ChoiceRow[]): void {
  const denoised = indicesOf(rows, ({ settings }) => settings.forbidMask);
  if (denoised.length === rows.length) column.fill_(Number.NEGATIVE_INFINITY);
  else if (denoised.length > 0) {
    const index = torch.tensor(denoised, { dtype: "int64", device: column.device });
    column.indexFill_(0, index, Number.NEGATIVE_INFINITY);
  }
}

/** Per row the highest logit, its id and ln sum exp of all, in float64. */
function likeliest(logits: Tensor): [Float64Array, Float64Array, Float64Array] {
  const values = logits.to({ dtype: "float64" });
  const [highest, ids] = values.max(1, false) as [Tensor, Tensor];
  const packed = torch.stack([highest, ids.to({ dtype: "float64" }), values.logsumexp([1])]);
  const host = packed.toTypedArray() as Float64Array;
  const n = host.length / 3;
  return [host.subarray(0, n), host.subarray(n, 2 * n), host.subarray(2 * n)];
}

function adjust(logits: Tensor, rows: readonly ChoiceRow[]): void {
  const vocabulary = logits.size(1);
  const at: number[] = [];
  const factor: number[] = [];
  const bias: number[] = [];
  rows.forEach(({ settings }, row) => {
    const { adjust: changes } = settings;
    if (!changes) return;
    for (const id of new Set([...changes.repeated, ...changes.bias.keys()])) {
      if (id >= vocabulary) continue;
      at.push(row * vocabulary + id);
      factor.push(changes.repeated.has(id) ? changes.repetition : 1);
      bias.push(changes.bias.get(id) ?? 0);
    }
  });
  if (at.length === 0) return;
  const { device, dtype } = logits;
  const index = torch.tensor(at, { dtype: "int64", device });
  const scale = torch.tensor(factor, { dtype, device });
  const flat = logits.view([-1]);
  const before = flat.indexSelect(0, index);
  const scaled = torch.where(before.gt(0), before.div(scale), before.mul(scale));
  flat.indexCopy_(0, index, scaled.add(torch.tensor(bias, { dtype, device })));
}

function select(logits: Tensor, indices: readonly number[]): Tensor {
  if (indices.length === logits.size(0)) return logits;
  return logits.indexSelect(0, torch.tensor(indices, { dtype: "int64", device: logits.device }));
}

function indicesOf(rows: readonly ChoiceRow[], wanted: (row: ChoiceRow) => boolean): number[] {
  return [...rows.keys()].filter((i) => wanted(rows[i]));
}

/** Rows with a temperature, on the host: the noise must be the same on every device. */
function draw(logits: Tensor, rows: readonly ChoiceRow[], choices: RowChoice[], normaliser: Float64Array): void {
  const drawn = indicesOf(rows, ({ settings, candidate }) => settings.temperature > 0 && candidate < 0).filter(
    (i) => !Number.isNaN(choices[i].logprob),
  );
  if (drawn.length === 0) return;
  const vocabulary = logits.size(1);
  const values = select(logits, drawn).to({ dtype: "float32" }).contiguous().toTypedArray() as Float32Array;
  drawn.forEach((i, k) => {
    const { settings } = rows[i];
    const row = values.subarray(k * vocabulary, (k + 1) * vocabulary);
    const { id, probability } = sampleToken(row, settings, gumbelStream(settings.seed, rows[i]));
    Object.assign(choices[i], { id, confidence: probability, logprob: row[id] - normaliser[i] });
  });
}

function addCandidates(
  logits: Tensor,
  rows: readonly ChoiceRow[],
  choices: RowChoice[],
  normaliser: Float64Array,
): void {
  const asked = indicesOf(rows, ({ candidate }) => candidate >= 0);
  if (asked.length === 0) return;
  const ids = torch.tensor(
    asked.map((i) => rows[i].candidate),
    { dtype: "int64", device: logits.device },
  );
  const values = select(logits, asked).gather(1, ids.unsqueeze(1)).to({ dtype: "float64" }).toTypedArray();
  asked.forEach((i, k) => {
    choices[i].candidateLogprob = Number(values[k]) - normaliser[i];
  });
}

function addEntropies(logits: Tensor, rows: readonly ChoiceRow[], choices: RowChoice[]): void {
  const asked = indicesOf(rows, ({ settings }) => settings.entropy);
  if (asked.length === 0) return;
  const values = entropyOfRows(select(logits, asked)).toTypedArray();
  asked.forEach((i, k) => {
    choices[i].entropy = Number(values[k]);
  });
}

function addTop(logits: Tensor, rows: readonly ChoiceRow[], choices: RowChoice[], normaliser: Float64Array): void {
  const asked = indicesOf(rows, ({ settings }) => settings.logprobs > 0);
  if (asked.length === 0) return;
  const most = Math.min(logits.size(1), Math.max(...asked.map((i) => rows[i].settings.logprobs)));
  const [values, ids] = select(logits, asked).topk(most, 1) as [Tensor, Tensor];
  const [hostValues, hostIds] = [values.to({ dtype: "float64" }).toTypedArray(), ids.toTypedArray()];
  asked.forEach((i, k) => {
    const top = Array.from({ length: Math.min(most, rows[i].settings.logprobs) }, (_, j) => ({
      id: Number(hostIds[k * most + j]),
      logprob: Number(hostValues[k * most + j]) - normaliser[i],
    }));
    choices[i].top = top.filter(({ logprob }) => logprob > Number.NEGATIVE_INFINITY);
  });
}
