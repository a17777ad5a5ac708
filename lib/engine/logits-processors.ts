import type { DTypeLike, Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import type { EngineRequest } from "./request.js";

/** Changes of a row of logits before it is sampled from. */
export interface LogitChanges {
  /** Added, by token id; -Infinity forbids a token. */
  bias: ReadonlyMap<number, number>;
  /** Divides positive logits and multiplies negative ones of the `repeated` ids, before the bias. */
  repetition: number;
  repeated: ReadonlySet<number>;
}

/**
 * The logits processors of a request: its bias and forbidden tokens, which are the same in every pass, and its penalties,
 * which depend on the tokens so far.
 */
export class LogitsProcessors {
  readonly #fixed: ReadonlyMap<number, number>;
  readonly #always: LogitChanges | undefined;
  readonly #presence: number;
  readonly #frequency: number;
  readonly #repetition: number;

  constructor({ settings, forbidden }: Pick<EngineRequest, "settings" | "forbidden">) {
    const bias = new Map<number, number>();
    for (const [id, value] of Object.entries(settings.logitBias)) {
      bias.set(Number(id), value <= -100 ? Number.NEGATIVE_INFINITY : value);
    }
    for (const id of forbidden) bias.set(id, Number.NEGATIVE_INFINITY);
    this.#fixed = bias;
    this.#always = bias.size > 0 ? { bias, repetition: 1, repeated: new Set() } : undefined;
    this.#presence = settings.presencePenalty;
    this.#frequency = settings.frequencyPenalty;
    this.#repetition = settings.repetitionPenalty;
  }

  /**
   * The changes for the next pass.
   *
   * @param tokens prompt and output; mask tokens do not count
   * @param firstNew where the output begins
   * @param end the position after the last that counts
   */
  changes(tokens: Int32Array, firstNew: number, end: number, maskId: number): LogitChanges | undefined {
    const isPenalized = this.#presence !== 0 || this.#frequency !== 0;
    const isRepetitive = this.#repetition !== 1;
    if (!isPenalized && !isRepetitive) return this.#always;
    const counts = new Map<number, number>();
    for (const id of tokens.subarray(firstNew, end)) {
      if (id !== maskId) counts.set(id, (counts.get(id) ?? 0) + 1);
    }
    const bias = new Map(this.#fixed);
    if (isPenalized) {
      for (const [id, count] of counts) bias.set(id, (bias.get(id) ?? 0) - this.#presence - this.#frequency * count);
    }
    const repeated = new Set(isRepetitive ? [...counts.keys(), ...tokens.subarray(0, firstNew)] : []);
    if (bias.size === 0 && repeated.size === 0) return undefined;
    return { bias, repetition: this.#repetition, repeated };
  }
}

/**
 * Applies the changes of all rows at once.
 *
 * @param logits [n, v], overwritten
 * @param changes [n]
 */
export function processLogits(logits: Tensor, changes: readonly (LogitChanges | undefined)[]): void {
  const vocabulary = logits.size(1);
  const at: number[] = [];
  const factor: number[] = [];
  const bias: number[] = [];
  const listed = new Map<LogitChanges, ChangeLists>();
  changes.forEach((change, row) => {
    if (!change) return;
    const lists = listed.get(change) ?? listChanges(change, vocabulary);
    listed.set(change, lists);
    lists.ids.forEach((id, i) => {
      at.push(row * vocabulary + id);
      factor.push(lists.factor[i]);
      bias.push(lists.bias[i]);
    });
  });
  if (at.length === 0) return;
  const { dtype, device } = logits;
  const upload = (numbers: number[], type: DTypeLike) =>
    torch.tensor(numbers, { dtype: type, device, pinMemory: device.startsWith("cuda") });
  const index = upload(at, "int64");
  const scale = upload(factor, dtype);
  const flat = logits.view([-1]);
  const before = flat.indexSelect(0, index);
  const scaled = torch.where(before.gt(0), before.div(scale), before.mul(scale));
  flat.indexCopy_(0, index, scaled.add(upload(bias, dtype)));
}

/** Changes as lists, which the rows of a sequence share. */
interface ChangeLists {
  ids: number[];
  factor: number[];
  bias: number[];
}

function listChanges({ bias, repetition, repeated }: LogitChanges, vocabulary: number): ChangeLists {
  const ids = [...new Set([...repeated, ...bias.keys()])].filter((id) => id < vocabulary);
  return {
    ids,
    factor: ids.map((id) => (repeated.has(id) ? repetition : 1)),
    bias: ids.map((id) => bias.get(id) ?? 0),
  };
}
