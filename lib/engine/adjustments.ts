import type { EngineRequest } from "./request.js";

/** Changes of logits before anything else is done with them. */
export interface Adjustments {
  /** Added, by token id; -Infinity forbids. */
  bias: ReadonlyMap<number, number>;
  /** Divides positive logits and multiplies negative ones of the `repeated` ids, before the bias. */
  repetition: number;
  repeated: ReadonlySet<number>;
}

/** The changes of logits that a request asks for: a part that stays, and penalties for the tokens that are there. */
export class RequestAdjustments {
  readonly #fixed: ReadonlyMap<number, number>;
  readonly #always: Adjustments | undefined;
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
   * What holds for the next pass.
   *
   * @param tokens prompt and output; the mask is not a token
   * @param firstNew where the output begins
   * @param end the position after the last that counts
   */
  after(tokens: Int32Array, firstNew: number, end: number, maskId: number): Adjustments | undefined {
    const isPenalised = this.#presence !== 0 || this.#frequency !== 0;
    const isRepetitive = this.#repetition !== 1;
    if (!isPenalised && !isRepetitive) return this.#always;
    const counts = new Map<number, number>();
    for (const id of tokens.subarray(firstNew, end)) {
      if (id !== maskId) counts.set(id, (counts.get(id) ?? 0) + 1);
    }
    const bias = new Map(this.#fixed);
    if (isPenalised) {
      for (const [id, count] of counts) bias.set(id, (bias.get(id) ?? 0) - this.#presence - this.#frequency * count);
    }
    const repeated = new Set(isRepetitive ? [...counts.keys(), ...tokens.subarray(0, firstNew)] : []);
    if (bias.size === 0 && repeated.size === 0) return undefined;
    return { bias, repetition: this.#repetition, repeated };
  }
}
