import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { weightName } from "../../lib/checkpoint/index.js";
import { noisyThenClean, shiftedRows } from "../../lib/diffusion/block-diffusion.js";
import { corrupt } from "../../lib/diffusion/corruption.js";
import {
  autoregressiveObjective,
  type Batch,
  blockDiffusionObjective,
  blockDiffusionPlan,
  clippedLinear,
  customNoise,
  DiffusionError,
  linearNoise,
  type Objective,
  supervisedObjective,
} from "../../lib/diffusion/index.js";
import type { AttentionPlan, Decoder } from "../../lib/model/index.js";
import { functional } from "../../lib/nn/index.js";
import * as torch from "../../lib/torch/index.js";
import { heldTensors } from "../torch/held-tensors.js";
import { context, fixturePath, MASK, randomBatch, tinyModel, worstError } from "./fixture.js";

let model: Decoder;
let mild: Decoder;
beforeAll(async () => {
  model = await tinyModel();
  mild = await tinyModel("diffusion/mild");
});
afterAll(() => {
  model.dispose();
  mild.dispose();
});

function gradients(of = model): Map<string, Float32Array> {
  const out = new Map<string, Float32Array>();
  for (const [name, parameter] of of.namedParameters()) {
    if (parameter.grad) out.set(weightName(name), parameter.grad.toTypedArray() as Float32Array);
    parameter.grad = null;
  }
  return out;
}

/** Loss and gradients of one objective call. */
function evaluate(objective: Objective, batch: Batch, more = {}, of = model) {
  return torch.scope(() => {
    const { loss, normalizer, metrics } = objective(of, batch, context(more));
    loss.backward();
    const numbers = Object.fromEntries(
      Object.entries(metrics ?? {}).map(([key, metric]) => {
        const isMean = typeof metric === "object" && "total" in metric;
        const { total, count } = isMean ? metric : { total: metric, count: 1 };
        return [key, (typeof total === "number" ? total : total.item()) / Math.max(1, count)];
      }),
    );
    return { loss: loss.item(), normalizer, metrics: numbers, gradients: gradients(of) };
  });
}

/** The final hidden states of the noisy half for given inputs, [batch * length, D]. */
function noisyStates(batch: Batch, noisy: Int32Array, blockSize: number): Float32Array {
  return torch.scope(() =>
    torch.noGrad(() => {
      const { batch: rows, seqLen, tokens, documents } = batch;
      const half = (ids: Int32Array) => torch.tensor(ids).to("int64").view([rows, seqLen]);
      const ids = torch.cat([half(noisy), half(tokens)], 1);
      const plan = blockDiffusionPlan(seqLen, blockSize, { documents });
      return model.forward(ids, plan).toTypedArray() as Float32Array;
    }),
  );
}

describe("block-diffusion loss against transformers with a dense mask, float64", () => {
  for (const name of ["b4", "b8-isolated", "b1-shift", "b4-shift", "b4-isolated-shift"]) {
    it(`${name}: loss and all gradients to 1e-5`, () => {
      const file = torch.openSafetensors(fixturePath(`diffusion/loss-${name}.safetensors`));
      const array = (key: string) => torch.scope(() => file.get(key).clone().toTypedArray());
      const [blockSize, shift, documents] = ["block_size", "shift", "documents"].map((key) =>
        JSON.parse(file.metadata[key]),
      ) as [number, boolean, number[]];
      const tokens = array("tokens") as Int32Array;
      const noisy = array("noisy") as Int32Array;
      const positions = array("positions") as Int32Array;
      const batch: Batch = { indices: [0], tokens, batch: 1, seqLen: tokens.length, documents };
      torch.scope(() => {
        const ids = torch.tensor(noisyThenClean(batch, noisy)).to("int64");
        const wanted = shift ? shiftedRows(batch, positions, blockSize) : positions;
        const rows = torch.tensor(wanted).to("int64");
        const targets = torch.tensor(positions.map((i) => tokens[i])).to("int64");
        const plan = blockDiffusionPlan(tokens.length, blockSize, { documents, rows, cleanQueries: shift });
        const hidden = mild.forward(ids.view([1, -1]), plan);
        const rowWeights = torch.tensor(array("weights") as Float32Array);
        const { loss, nll } = functional.linearCrossEntropy(hidden, mild.headWeight, targets, { rowWeights });
        expect(worstError([loss.item()], array("loss") as Float32Array)).toBeLessThan(1e-5);
        expect(worstError(nll.toTypedArray() as Float32Array, array("nll") as Float32Array)).toBeLessThan(1e-5);
        loss.backward();
      });
      const all = gradients(mild);
      expect(all.size).toBe(21);
      for (const [key, grad] of all) {
        expect(worstError(grad, array(`grad.${key}`) as Float32Array), key).toBeLessThan(1e-5);
      }
      file.dispose();
    });
  }
});

/** Plain attention under an explicit mask over [x_t ; x_0], to compare with. */
function densePlan(batch: Batch, blockSize: number, rows: torch.Tensor): AttentionPlan {
  const { batch: b, seqLen } = batch;
  const documents = batch.documents ?? Array.from({ length: b + 1 }, (_, row) => row * seqLen);
  const block = Array.from({ length: b * seqLen }, (_, i) => {
    const start = documents.filter((at) => at <= i).at(-1) as number;
    return { start, index: Math.floor((i - start) / blockSize) };
  });
  const mask = Array.from({ length: b }, (_, row) =>
    Array.from({ length: 2 * seqLen }, (_, q) =>
      Array.from({ length: 2 * seqLen }, (_, k) => {
        const [mine, other] = [block[row * seqLen + (q % seqLen)], block[row * seqLen + (k % seqLen)]];
        if (mine.start !== other.start) return false;
        if (k < seqLen) return q < seqLen && mine.index === other.index;
        return q < seqLen ? other.index < mine.index : other.index <= mine.index;
      }),
    ),
  );
  const visible = torch.tensor(mask).unsqueeze(1);
  return {
    positions: torch.arange(seqLen, { dtype: "int64" }).repeat([2]),
    attend: (_layer, q, k, v) => {
      const [queries, keys, values] = [q, k, v].map((x) => x.transpose(1, 2));
      const options = { enableGqa: true };
      return torch.scaledDotProductAttention(queries, keys, values, visible, 0, false, options).transpose(1, 2);
    },
    lastLayer: { rows },
  };
}

describe("the whole objective against a dense mask, same corruption", () => {
  const lossMask = Uint8Array.from({ length: 42 }, (_, i) => (i % 21 < 5 ? 0 : 1));
  const cases = {
    plain: [{}, {}],
    "isolated documents": [{}, { documents: [0, 7, 15, 21, 32, 42] }],
    "answers only": [{ blockSize: 8 }, { lossMask }],
    "shift, isolated": [{ shift: true, blockSize: 3 }, { documents: [0, 7, 15, 21, 32, 42] }],
    "unclipped, antithetic": [{ noise: "linear", timeSampling: "antithetic", blockSize: 2 }, {}],
  } satisfies Record<string, [Parameters<typeof blockDiffusionObjective>[0], Partial<Batch>]>;

  for (const [name, [options, more]] of Object.entries(cases)) {
    it(`${name}: loss and all gradients to 1e-5`, () => {
      const batch: Batch = randomBatch([11, 12], 21, more);
      const { blockSize = 4, shift = false, ...rest } = options as { blockSize?: number; shift?: boolean };
      const actual = evaluate(blockDiffusionObjective(options), batch, {}, mild);
      const noise = "noise" in rest ? linearNoise() : clippedLinear();
      const common = { noise, blockSize, maskId: MASK, seed: 1, stage: 0, keepFirst: shift };
      const c = corrupt(batch, { ...common, timeSampling: "noise" in rest ? "antithetic" : "independent" });
      torch.scope(() => {
        const long = (ids: Int32Array) => torch.tensor(ids).to("int64");
        const ids = torch.cat([long(c.noisy).view([2, 21]), long(batch.tokens).view([2, 21])], 1);
        // [batch, 2 * length] here, where the objective asks for the noisy half alone.
        const rows = shift
          ? shiftedRows(batch, c.positions, blockSize)
          : c.positions.map((at) => at + 21 * Math.floor(at / 21));
        const hidden = mild.forward(ids, densePlan(batch, blockSize, long(rows)));
        const logP = mild.logits(hidden).logSoftmax(-1).gather(1, long(c.targets).unsqueeze(1)).squeeze(1);
        const loss = logP.mul(torch.tensor(c.weights)).sum().neg();
        loss.backward();
        expect(worstError([actual.loss], [loss.item()])).toBeLessThan(1e-5);
      });
      for (const [key, grad] of gradients(mild)) {
        expect(worstError(actual.gradients.get(key) ?? [], grad), key).toBeLessThan(1e-5);
      }
    });
  }
});

describe("block-diffusion objective", () => {
  const batch = randomBatch([3, 4], 18);

  it("is the weighted cross-entropy of the masked tokens, over all tokens (Eq. 4)", () => {
    const noise = clippedLinear();
    const c = corrupt(batch, { blockSize: 4, noise, maskId: MASK, seed: 1, stage: 0 });
    const states = noisyStates(batch, c.noisy, 4);
    const width = model.config.hiddenSize;
    const { loss, normalizer, metrics } = evaluate(blockDiffusionObjective({ noise }), batch);
    const head = model.headWeight.toTypedArray() as Float32Array;
    let expected = 0;
    let plain = 0;
    c.positions.forEach((at, k) => {
      const logits = Array.from({ length: 48 }, (_, v) => {
        let sum = 0;
        for (let d = 0; d < width; d++) sum += states[at * width + d] * head[v * width + d];
        return sum;
      });
      const highest = Math.max(...logits);
      const nll = highest + Math.log(logits.reduce((s, x) => s + Math.exp(x - highest), 0)) - logits[c.targets[k]];
      expected += c.weights[k] * nll;
      plain += nll;
    });
    expect(Math.abs(loss / expected - 1)).toBeLessThan(1e-5);
    expect(normalizer).toBe(36);
    expect(metrics.masked_nll).toBeCloseTo(plain / c.numMasked, 4);
    expect(metrics).toMatchObject({
      u_max: 1,
      masked_share: c.numMasked / 36,
      empty_blocks: 0,
      fallback_blocks: c.fallbackBlocks / 10,
    });
  });

  it("each switch does what it says", () => {
    const { numMasked, weights } = corrupt(batch, {
      blockSize: 4,
      noise: linearNoise(),
      maskId: MASK,
      seed: 1,
      stage: 0,
    });
    const of = (options: Parameters<typeof blockDiffusionObjective>[0]) =>
      evaluate(blockDiffusionObjective({ noise: "linear", ...options }), batch);
    expect(of({ normalizer: "masked" }).normalizer).toBe(numMasked);
    const flat = of({ weighted: false });
    expect(flat.loss / numMasked).toBeCloseTo(flat.metrics.masked_nll, 4);
    expect(of({}).loss).not.toBeCloseTo(flat.loss, 1);
    expect(weights.some((w) => w !== 1)).toBe(true);
  });

  it("gives the same loss whatever the batch is cut into, up to rounding of the sum", () => {
    const objective = blockDiffusionObjective();
    const whole = evaluate(objective, batch);
    const parts = [3, 4].map((index) => evaluate(objective, randomBatch([index], 18)));
    expect(parts[0].loss + parts[1].loss).toBeCloseTo(whole.loss, 3);
    expect(parts[0].normalizer + parts[1].normalizer).toBe(whole.normalizer);
    for (const [name, grad] of whole.gradients) {
      const sum = parts[0].gradients.get(name)?.map((x, i) => x + (parts[1].gradients.get(name)?.[i] ?? Number.NaN));
      expect(worstError(sum ?? [], grad), name).toBeLessThan(1e-5);
    }
  });

  it("is reproducible bit for bit", () => {
    const once = evaluate(blockDiffusionObjective(), batch);
    expect(evaluate(blockDiffusionObjective(), batch)).toEqual(once);
  });

  it("warms up by Eq. 10: the cap ramps, the weight is off until the end, then all comes back", () => {
    const objective = blockDiffusionObjective({ warmup: { steps: 10 } });
    const state = {};
    const long = randomBatch([...Array(40).keys()], 40); // 400 blocks
    for (const step of [0, 5, 9]) {
      const { metrics, loss, normalizer } = evaluate(objective, long, { step, state });
      const uMax = 1e-3 + (1 - 1e-3) * (step / 10);
      expect(metrics.u_max).toBeCloseTo(uMax, 12);
      expect(metrics.fallback_blocks).toBe(0);
      expect(normalizer).toBe(1600);
      // No weight: the loss is the plain sum, of u_max / 2 of the tokens (5 standard errors; blocks share t).
      expect(Math.abs(metrics.masked_share - uMax / 2)).toBeLessThan(5 * Math.sqrt(uMax / 2 / 400));
      const masked = Math.round(metrics.masked_share * 1600);
      expect(Math.abs(loss - metrics.masked_nll * masked)).toBeLessThan(1e-4 * Math.max(1, loss));
    }
    const full = evaluate(objective, long, { step: 10, state });
    expect(full).toEqual(evaluate(blockDiffusionObjective(), long));
    expect(JSON.parse(JSON.stringify(state))).toEqual({
      warmup: { step: 10, progress: 10, held: 0, reference: null },
    });
  });

  it("holds the ramp on the gradient norm, from its state", () => {
    const objective = blockDiffusionObjective({ warmup: { steps: 10, hold: { multiple: 2, reference: 1 } } });
    const state = {};
    const uMax = [5, 5, 1, 1].map(
      (gradNorm, step) => evaluate(objective, batch, { step, state, gradNorm }).metrics.u_max,
    );
    expect(uMax.map((u) => Math.round(u * 10))).toEqual([0, 0, 1, 2]);
  });

  it("has a loss of 0 with gradients of 0 when nothing is masked", () => {
    const never = customNoise("never", () => 0);
    const { loss, normalizer, metrics, gradients } = evaluate(blockDiffusionObjective({ noise: never }), batch);
    expect([loss, normalizer, metrics.masked_nll]).toEqual([0, 36, 0]);
    for (const [name, grad] of gradients)
      expect(
        grad.every((g) => g === 0),
        name,
      ).toBe(true);
  });

  it("runs under autocast, close to float32", () => {
    const objective = blockDiffusionObjective();
    const exact = evaluate(objective, batch).loss;
    const cast = torch.scope(() => {
      const { loss } = torch.autocast({ device: "cpu", dtype: "bfloat16" }, () => objective(model, batch, context()));
      loss.backward();
      return loss.item();
    });
    for (const [name, grad] of gradients()) expect(grad.every(Number.isFinite), name).toBe(true);
    expect(Math.abs(cast / exact - 1)).toBeLessThan(0.05);
    expect(cast).not.toBe(exact);
  });

  it("leaves no tensor behind", () => {
    const objective = blockDiffusionObjective({ shift: true });
    evaluate(objective, batch);
    const before = heldTensors();
    for (let i = 0; i < 3; i++) evaluate(objective, batch, { step: i });
    expect(heldTensors()).toBe(before);
  });

  it("names wrong options with their path", () => {
    expect(() => blockDiffusionObjective({ blockSize: 0 })).toThrow(DiffusionError);
    expect(() => blockDiffusionObjective({ blocksize: 4 } as never)).toThrow(/blocksize/);
    expect(() => blockDiffusionObjective({ warmup: { steps: 10, initial: 2 } })).toThrow(/warmup.initial/);
    expect(() => blockDiffusionObjective({ noise: "sigmoid" } as never)).toThrow(/clipped-linear/);
    expect(() => evaluate(blockDiffusionObjective({ maskId: 48 }), batch)).toThrow(/outside the vocabulary/);
  });
});

describe("what earlier tokens depend on", () => {
  const batch = randomBatch([5, 6], 21, { documents: [0, 9, 21, 30, 42] });
  const c = corrupt(batch, { blockSize: 4, noise: clippedLinear(), maskId: MASK, seed: 3, stage: 0 });
  const width = 24;
  const change = (ids: Int32Array, from: number, to: number) =>
    ids.map((id, i) => (i >= from && i < to ? (id === MASK ? 7 : MASK) : id));

  it("a later block changes nothing before it, bit for bit", () => {
    const plain = { ...batch, documents: undefined };
    const states = noisyStates(plain, c.noisy, 4);
    // From block 3 of row 0 on, in both halves.
    const changed = { ...plain, tokens: change(plain.tokens, 12, 21) };
    const after = noisyStates(changed, change(c.noisy, 12, 21), 4);
    expect(after.subarray(0, 12 * width)).toEqual(states.subarray(0, 12 * width));
    expect(after.subarray(21 * width)).toEqual(states.subarray(21 * width));
    expect(worstError(after.subarray(12 * width, 21 * width), states.subarray(12 * width, 21 * width))).toBeGreaterThan(
      1e-3,
    );
  });

  it("another document changes nothing, bit for bit, before or after", () => {
    const states = noisyStates(batch, c.noisy, 4);
    const changed = { ...batch, tokens: change(batch.tokens, 0, 9) };
    const after = noisyStates(changed, change(c.noisy, 0, 9), 4);
    expect(after.subarray(9 * width)).toEqual(states.subarray(9 * width));
    expect(after.subarray(0, 9 * width)).not.toEqual(states.subarray(0, 9 * width));
  });

  it("but mutually visible documents see the ones before", () => {
    const visible = { ...batch, documents: undefined };
    const states = noisyStates(visible, c.noisy, 4);
    const after = noisyStates({ ...visible, tokens: change(batch.tokens, 0, 9) }, c.noisy, 4);
    expect(worstError(after.subarray(16 * width, 21 * width), states.subarray(16 * width, 21 * width))).toBeGreaterThan(
      1e-3,
    );
  });

  it("a noisy token sees its block's noisy tokens and not its own clean block", () => {
    const plain = { ...batch, documents: undefined };
    const states = noisyStates(plain, c.noisy, 4);
    const clean = noisyStates({ ...plain, tokens: change(plain.tokens, 4, 8) }, c.noisy, 4);
    expect(clean.subarray(0, 8 * width)).toEqual(states.subarray(0, 8 * width));
    expect(clean.subarray(8 * width, 21 * width)).not.toEqual(states.subarray(8 * width, 21 * width));
    const noisy = noisyStates(plain, change(c.noisy, 7, 8), 4);
    expect(noisy.subarray(4 * width, 8 * width)).not.toEqual(states.subarray(4 * width, 8 * width));
    expect(noisy.subarray(8 * width, 21 * width)).toEqual(states.subarray(8 * width, 21 * width));
  });
});

describe("autoregressive objective", () => {
  it("with shift and B = 1, all masked, block diffusion is the AR objective", () => {
    const batch = randomBatch([8, 9], 17, { documents: [0, 5, 17, 34] });
    const noise = customNoise("all", () => 1, { weight: () => 1 });
    const ar = evaluate(autoregressiveObjective(), batch);
    const diffusion = evaluate(blockDiffusionObjective({ blockSize: 1, shift: true, noise }), batch);
    expect(ar.normalizer).toBe(34 - 3);
    expect(diffusion.normalizer).toBe(ar.normalizer);
    expect(worstError([diffusion.loss], [ar.loss])).toBeLessThan(1e-6);
    for (const [name, grad] of ar.gradients) {
      // The mask token's embedding is read by noisy states that nothing depends on. Two float32 paths of different
      // shapes, neither of them exact: the golden tests above are the ones to 1e-5.
      expect(worstError(diffusion.gradients.get(name) ?? [], grad), name).toBeLessThan(5e-5);
    }
  });

  it("has no loss across a boundary when isolated, and has when visible", () => {
    const batch = randomBatch([8], 12, { documents: [0, 5, 12] });
    expect(evaluate(autoregressiveObjective(), batch).normalizer).toBe(10);
    expect(evaluate(autoregressiveObjective({ crossDocumentAttention: true }), batch).normalizer).toBe(11);
    const first = evaluate(autoregressiveObjective(), randomBatchSlice(batch, 0, 5));
    const second = evaluate(autoregressiveObjective(), randomBatchSlice(batch, 5, 12));
    expect(evaluate(autoregressiveObjective(), batch).loss).toBeCloseTo(first.loss + second.loss, 3);
  });

  it("predicts only answer tokens where a lossMask marks them", () => {
    const lossMask = Uint8Array.from([1, 0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1]);
    const batch = randomBatch([8], 12, { lossMask });
    expect(evaluate(autoregressiveObjective(), batch).normalizer).toBe(6); // the first token has nothing before it
  });
});

function randomBatchSlice(batch: Batch, from: number, to: number): Batch {
  return { indices: [0], tokens: batch.tokens.slice(from, to), batch: 1, seqLen: to - from };
}

describe("supervised objective", () => {
  const lossMask = new Uint8Array(40).fill(1, 6, 17).fill(1, 31, 40);
  const batch = randomBatch([1, 2], 20, { lossMask });

  it("counts answer tokens, and prompts get no loss but are seen", () => {
    const { normalizer, metrics } = evaluate(supervisedObjective(), batch);
    expect(normalizer).toBe(20);
    expect(metrics.empty_blocks).toBe(0);
    const other = { ...batch, tokens: batch.tokens.map((id, i) => (i < 6 ? 6 + ((id + 3) % 40) : id)) };
    expect(evaluate(supervisedObjective(), other).loss).not.toBe(evaluate(supervisedObjective(), batch).loss);
  });

  it("refuses a batch without a lossMask", () => {
    expect(() => evaluate(supervisedObjective(), randomBatch([1], 8))).toThrow(/lossMask/);
  });
});
