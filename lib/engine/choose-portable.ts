import { entropyOfRows, gumbelStream, sampleToken } from "../diffusion/token-choice.js";
import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { type ChoiceRow, type Choices, indicesOf, type RowChoice, select, toDevice } from "./choice-rows.js";

/** On other devices only what rows ask for is computed, and only what is drawn from crosses to the host. */
export function chooseThere(logits: Tensor, rows: readonly ChoiceRow[]): Choices {
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

/** Per row the highest logit, its id and ln sum exp of all, in float64. */
function likeliest(logits: Tensor): [Float64Array, Float64Array, Float64Array] {
  const values = logits.to({ dtype: "float64" });
  const [highest, ids] = values.max(1, false) as [Tensor, Tensor];
  const packed = torch.stack([highest, ids.to({ dtype: "float64" }), values.logsumexp([1])]);
  const host = packed.toTypedArray() as Float64Array;
  const n = host.length / 3;
  return [host.subarray(0, n), host.subarray(n, 2 * n), host.subarray(2 * n)];
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
  const candidates = asked.map((i) => rows[i].candidate);
  const ids = toDevice(candidates, logits, "int64");
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
