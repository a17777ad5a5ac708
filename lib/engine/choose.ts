import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import type { Adjustments } from "./adjustments.js";
import { type ChoiceRow, type Choices, indicesOf, type RowChoice, select, toDevice } from "./choice-rows.js";
import { chooseThere } from "./choose-portable.js";

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

/** On the CPU one operator does it all, and equals `sampleToken` in what it draws. */
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

function forbidMask(column: Tensor, rows: readonly ChoiceRow[]): void {
  const denoised = indicesOf(rows, ({ settings }) => settings.forbidMask);
  if (denoised.length === rows.length) column.fill_(Number.NEGATIVE_INFINITY);
  else if (denoised.length > 0) {
    column.indexFill_(0, toDevice(denoised, column, "int64"), Number.NEGATIVE_INFINITY);
  }
}

function adjust(logits: Tensor, rows: readonly ChoiceRow[]): void {
  const vocabulary = logits.size(1);
  const at: number[] = [];
  const factor: number[] = [];
  const bias: number[] = [];
  const listed = new Map<Adjustments, Changes>();
  rows.forEach(({ settings: { adjust: asked } }, row) => {
    if (!asked) return;
    const changes = listed.get(asked) ?? listChanges(asked, vocabulary);
    listed.set(asked, changes);
    changes.ids.forEach((id, i) => {
      at.push(row * vocabulary + id);
      factor.push(changes.factor[i]);
      bias.push(changes.bias[i]);
    });
  });
  if (at.length === 0) return;
  const { dtype } = logits;
  const index = toDevice(at, logits, "int64");
  const scale = toDevice(factor, logits, dtype);
  const flat = logits.view([-1]);
  const before = flat.indexSelect(0, index);
  const scaled = torch.where(before.gt(0), before.div(scale), before.mul(scale));
  flat.indexCopy_(0, index, scaled.add(toDevice(bias, logits, dtype)));
}

/** Adjustments as lists: the rows of a sequence share them. */
interface Changes {
  ids: number[];
  factor: number[];
  bias: number[];
}

function listChanges({ bias, repetition, repeated }: Adjustments, vocabulary: number): Changes {
  const ids = [...new Set([...repeated, ...bias.keys()])].filter((id) => id < vocabulary);
  return {
    ids,
    factor: ids.map((id) => (repeated.has(id) ? repetition : 1)),
    bias: ids.map((id) => bias.get(id) ?? 0),
  };
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
