import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { weightName } from "../../lib/checkpoint/index.js";
import {
  autoregressiveObjective,
  type Batch,
  bidirectionalObjective,
  causalDiffusionObjective,
  corrupt,
  customNoise,
  DiffusionError,
  linearNoise,
  type Objective,
} from "../../lib/diffusion/index.js";
import type { Decoder } from "../../lib/model/index.js";
import * as torch from "../../lib/torch/index.js";
import { heldTensors } from "../torch/held-tensors.js";
import { context, fixturePath, MASK, randomBatch, tinyModel, worstError } from "./fixture.js";

let mild: Decoder;
beforeAll(async () => {
  mild = await tinyModel("diffusion/mild");
});
afterAll(() => mild.dispose());

const objectives = { bidirectional: bidirectionalObjective, causal: causalDiffusionObjective };
const kinds = Object.entries(objectives);

/** Loss, metrics and gradients of one call. */
function evaluate(objective: Objective, batch: Batch, more = {}) {
  return torch.scope(() => {
    const { loss, normalizer, metrics = {} } = objective(mild, batch, context(more));
    loss.backward();
    const gradients = new Map<string, Float32Array>();
    for (const [name, parameter] of mild.namedParameters()) {
      if (parameter.grad) gradients.set(weightName(name), parameter.grad.toTypedArray() as Float32Array);
      parameter.grad = null;
    }
    const numbers = Object.entries(metrics).map(([name, metric]) => {
      const { total, count } = typeof metric === "object" && "total" in metric ? metric : { total: metric, count: 1 };
      return [name, (typeof total === "number" ? total : total.item()) / Math.max(1, count)] as const;
    });
    return { loss: loss.item(), normalizer, metrics: Object.fromEntries(numbers), gradients };
  });
}

type Evaluated = ReturnType<typeof evaluate>;

function expectSame(actual: Evaluated, expected: Pick<Evaluated, "loss" | "gradients">, tolerance = 1e-5) {
  expect(worstError([actual.loss], [expected.loss])).toBeLessThan(tolerance);
  expect(actual.gradients.size).toBe(expected.gradients.size);
  for (const [name, gradient] of expected.gradients) {
    expect(worstError(actual.gradients.get(name) ?? [], gradient), name).toBeLessThan(tolerance);
  }
}

describe("loss and gradients against transformers with a dense mask, float64", () => {
  const cases = kinds.flatMap(([kind]) => [kind, `${kind}-isolated`, `${kind}-isolated-shift`]);
  it.each(cases)("%s: to 1e-5", (name) => {
    const file = torch.openSafetensors(fixturePath(`diffusion/document-${name}.safetensors`));
    const array = (key: string) => torch.scope(() => file.get(key).clone().toTypedArray());
    const of = <T>(key: string) => JSON.parse(file.metadata[key]) as T;
    const tokens = array("tokens") as Int32Array;
    const lossMask = array("mask") as Uint8Array;
    const documents = of<number[]>("documents");
    const batch: Batch = { indices: [0], tokens, batch: 1, seqLen: tokens.length, documents, lossMask };
    // Every token that may be masked is: the mask is the fixture's.
    const noise = customNoise("all", () => 1, { weight: () => of<number>("weight") });
    const make = of<boolean>("causal") ? causalDiffusionObjective : bidirectionalObjective;
    const actual = evaluate(make({ noise, maskId: MASK, shift: of<boolean>("shift") }), batch);
    expect(actual.normalizer).toBe(lossMask.reduce((sum, x) => sum + x, 0));
    const keys = [...actual.gradients.keys()];
    expect(keys).toHaveLength(21);
    const gradients = new Map(keys.map((key) => [key, array(`grad.${key}`) as Float32Array]));
    expectSame(actual, { loss: (array("loss") as Float32Array)[0], gradients });
    file.dispose();
  });
});

describe.each(kinds)("%s diffusion", (kind, make) => {
  const documents = [0, 7, 12, 21, 26, 42];
  const batch = randomBatch([11, 12], 21, { documents });

  it("is the same whatever the batch is cut into", () => {
    const whole = evaluate(make(), batch);
    const first = evaluate(make(), randomBatch([11], 21, { documents: [0, 7, 12, 21] }));
    const second = evaluate(make(), randomBatch([12], 21, { documents: [0, 5, 21] }));
    expect(first.normalizer + second.normalizer).toBe(whole.normalizer);
    const gradients = new Map(
      [...first.gradients].map(([name, gradient]) => [
        name,
        gradient.map((x, i) => x + (second.gradients.get(name)?.[i] ?? Number.NaN)),
      ]),
    );
    expectSame(whole, { loss: first.loss + second.loss, gradients });
    expect(evaluate(make(), batch)).toEqual(evaluate(make(), batch));
  });

  it("isolates documents, and a change of one reaches no other; without isolation it does", () => {
    // Only document 7..12 is masked; document 0..7 changes.
    const lossMask = new Uint8Array(21).fill(1, 7, 12);
    const original = randomBatch([11], 21, { documents: [0, 7, 12, 21], lossMask });
    const changed = { ...original, tokens: original.tokens.map((id, i) => (i < 7 ? 6 + ((id + 5) % 26) : id)) };
    const lossOf = (of: Batch, crossDocumentAttention: boolean) =>
      evaluate(make({ crossDocumentAttention, noise: "clipped-linear" }), of).loss;
    expect(lossOf(changed, false)).toBe(lossOf(original, false));
    expect(Math.abs(lossOf(changed, true) - lossOf(original, true))).toBeGreaterThan(1e-2);
  });

  it(`sees ${kind === "causal" ? "no later" : "later"} tokens`, () => {
    const lossMask = new Uint8Array(21).fill(1, 3, 9);
    const original = randomBatch([11], 21, { lossMask });
    const changed = { ...original, tokens: original.tokens.map((id, i) => (i > 9 ? 6 + ((id + 5) % 26) : id)) };
    const noise = customNoise("all", () => 1, { weight: () => 1 });
    const difference = Math.abs(evaluate(make({ noise }), changed).loss - evaluate(make({ noise }), original).loss);
    if (kind === "causal") expect(difference).toBe(0);
    else expect(difference).toBeGreaterThan(1e-2);
  });

  it("masks as its schedule says: one time per document, weights 1/u, an unbiased mass", () => {
    const rows = [...Array(4000).keys()];
    const long = randomBatch(rows, 16);
    const options = { blockSize: 16, granularity: "sequence", maskId: MASK, seed: 1, stage: 0 } as const;
    const c = corrupt(long, { ...options, noise: linearNoise({ epsilon: 1e-3 }) });
    const shares = rows.map(
      (row) => c.noisy.subarray(row * 16, (row + 1) * 16).filter((id) => id === MASK).length / 16,
    );
    const mean = shares.reduce((sum, x) => sum + x, 0) / rows.length;
    // u is uniform: mean 1/2; and the number of masked tokens is uniform on 0 .. 16 where they share a time.
    expect(Math.abs(mean - 0.5)).toBeLessThan(5 * Math.sqrt(1 / 12 / rows.length) + 1e-3);
    const none = shares.filter((share) => share === 0).length / rows.length;
    expect(Math.abs(none - 1 / 17)).toBeLessThan(5 * Math.sqrt((1 / 17) * (16 / 17) * (1 / rows.length)) + 1e-3);
    // The weights 1/u make every token count once: variance ln(1/epsilon) / 16 of a row's mean.
    expect(Math.abs(c.weightedMass - 1)).toBeLessThan(5 * Math.sqrt(Math.log(1000) / 16 / rows.length) + 1e-3);
    // What the objective masks is the same; its metrics are taken from a part, to be quick.
    const part = randomBatch(rows.slice(0, 200), 16);
    const masked = shares.slice(0, 200).reduce((sum, x) => sum + x, 0) / 200;
    const { metrics, normalizer } = evaluate(make(), part, { seed: 1, stage: 0 });
    expect(metrics.masked_share).toBeCloseTo(masked, 10);
    expect(normalizer).toBe(3200);
    const clipped = evaluate(make({ noise: "clipped-linear" }), part).metrics;
    expect(clipped.empty_blocks).toBe(0);
    expect(clipped.fallback_blocks).toBeGreaterThan(0);
    expect(metrics.empty_blocks).toBeGreaterThan(0);
  });

  it("shares a time in a document or a sequence, and relates the times of rows of one document", () => {
    const rows = [...Array(50).keys()];
    const noise = customNoise("step", (t) => (t < 0.5 ? 0 : 1), { weight: () => 1 });
    const starts = rows.flatMap((row) => [row * 8, row * 8 + 4]);
    const isolated = randomBatch(rows, 8, { documents: [...starts, 400] });
    // Each document is masked as a whole or not at all; a quarter of the rows have their two documents masked.
    const of = (options: object, on: Batch) => evaluate(make({ noise, ...options }), on).metrics;
    const perDocument = of({}, isolated);
    expect(perDocument.empty_blocks).toBeCloseTo(1 - perDocument.masked_share, 10);
    expect(of({ granularity: "sequence" }, isolated).masked_share).not.toBe(perDocument.masked_share);
    const antithetic = of({ timeSampling: "antithetic" }, randomBatch(rows, 8));
    expect(antithetic.masked_share).toBe(0.5);
  });

  it("warms up by Eq. 10", () => {
    const long = randomBatch([...Array(40).keys()], 40);
    const state = {};
    const objective = make({ warmup: { steps: 10 }, noise: "clipped-linear" });
    const early = evaluate(objective, long, { step: 1, state });
    expect(early.metrics.u_max).toBeCloseTo(1e-3 + (1 - 1e-3) / 10, 12);
    expect(early.metrics.fallback_blocks).toBe(0);
    const masked = Math.round(early.metrics.masked_share * 1600);
    expect(Math.abs(early.loss - early.metrics.masked_nll * masked)).toBeLessThan(1e-4 * early.loss);
    expect(evaluate(objective, long, { step: 10, state })).toEqual(evaluate(make({ noise: "clipped-linear" }), long));
  });

  it("with shift never masks a document's first token", () => {
    const noise = customNoise("all", () => 1, { weight: () => 1 });
    expect(evaluate(make({ shift: true, noise }), batch).normalizer).toBe(42 - 5);
    expect(evaluate(make({ shift: true, noise, crossDocumentAttention: true }), batch).normalizer).toBe(42 - 2);
  });

  it("runs under autocast, and leaves no tensor behind", () => {
    const exact = evaluate(make(), batch).loss;
    const before = heldTensors();
    const cast = torch.scope(() => {
      const { loss } = torch.autocast({ device: "cpu" }, () => make()(mild, batch, context()));
      loss.backward();
      for (const parameter of mild.parameters()) parameter.grad = null;
      return loss.item();
    });
    expect(Math.abs(cast / exact - 1)).toBeLessThan(0.05);
    expect(cast).not.toBe(exact);
    expect(heldTensors()).toBe(before);
  });

  it("has a loss of 0 when nothing is masked, and names wrong options", () => {
    const never = customNoise("never", () => 0);
    expect(evaluate(make({ noise: never }), batch)).toMatchObject({ loss: 0, normalizer: 42 });
    expect(() => make({ blockSize: 4 } as never)).toThrow(DiffusionError);
    expect(() => make({ granularity: "block" } as never)).toThrow(/"document", "sequence"/);
  });
});

it("causal diffusion with shift, of a lone masked last token, is the AR objective's term", () => {
  const lossMask = new Uint8Array(12).fill(1, 11);
  const batch = randomBatch([8], 12, { lossMask });
  const noise = customNoise("all", () => 1, { weight: () => 1 });
  const ar = evaluate(autoregressiveObjective(), batch);
  const actual = evaluate(causalDiffusionObjective({ shift: true, noise }), batch);
  expect(actual.normalizer).toBe(ar.normalizer);
  expect(worstError([actual.loss], [ar.loss])).toBeLessThan(1e-6);
});
