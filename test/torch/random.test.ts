// The same seed gives Python's numbers: test/fixtures/torch/random.json, which scripts/fixtures/torch_random.py writes.
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import * as torch from "../../lib/torch/index.js";

interface Case {
  name: string;
  seed: number;
  dtype: torch.DType;
  shape: number[];
  values: number[];
}
const fixture = JSON.parse(readFileSync(new URL("../fixtures/torch/random.json", import.meta.url), "utf8")) as {
  cases: Case[];
  sequence: Record<"rand" | "randn" | "dropout" | "afterState", number[]>;
};

const weights = () => torch.tensor([0.1, 0.5, 0.2, 0.15, 0.05]);

const make: Record<string, (generator: torch.Generator) => torch.Tensor> = {
  rand: (generator) => torch.rand([7], { generator }),
  "rand float64": (generator) => torch.rand([5], { generator, dtype: "float64" }),
  "rand bfloat16": (generator) => torch.rand([5], { generator, dtype: "bfloat16" }),
  "rand 2d": (generator) => torch.rand([3, 4], { generator }),
  randn: (generator) => torch.randn([9], { generator }),
  "randn float64": (generator) => torch.randn([5], { generator, dtype: "float64" }),
  "randn 40": (generator) => torch.randn([40], { generator }),
  randint: (generator) => torch.randint(-5, 100, [9], { generator }),
  "randint wide": (generator) => torch.randint(0, 2 ** 45, [4], { generator }),
  "randint int32": (generator) => torch.randint(0, 7, [6], { generator, dtype: "int32" }),
  randperm: (generator) => torch.randperm(12, { generator }),
  bernoulli: (generator) => torch.bernoulli(torch.full([8], 0.3), { generator }),
  multinomial: (generator) => torch.multinomial(weights(), 4, false, { generator }),
  "multinomial replacement": (generator) => torch.multinomial(weights(), 10, true, { generator }),
  normal: (generator) => torch.normal(weights(), weights(), { generator }),
  uniform_: (generator) => torch.empty([6]).uniform_(-2, 3, { generator }),
  normal_: (generator) => torch.empty([6]).normal_(1, 2, { generator }),
  exponential_: (generator) => torch.empty([6]).exponential_(0.5, { generator }),
  random_: (generator) => torch.empty([6], { dtype: "int64" }).random_(10, 20, { generator }),
  geometric_: (generator) => torch.empty([6]).geometric_(0.3, { generator }),
  cauchy_: (generator) => torch.empty([4]).cauchy_(0, 1, { generator }),
  log_normal_: (generator) => torch.empty([4]).logNormal_(0.5, 0.25, { generator }),
  poisson: (generator) => torch.poisson(torch.tensor([1, 5, 20]), generator),
};

// Integers and uniform numbers are exact everywhere; the transcendental functions behind the rest differ between
// instruction sets in the last bits.
const exact = /^(rand|randint|randperm|bernoulli|multinomial|uniform_|random_|poisson)/;
const isExact = (name: string) => exact.test(name) && !name.startsWith("randn");

function expectValues(actual: torch.Tensor, expected: readonly number[], bits: boolean): void {
  const values = Array.from(actual.toTypedArray(), Number);
  expect(values.length).toBe(expected.length);
  for (const [i, want] of expected.entries()) {
    if (bits) expect(values[i]).toBe(actual.dtype === "float32" ? Math.fround(want) : want);
    else expect(Math.abs(values[i] - want)).toBeLessThanOrEqual(1e-5 * Math.max(1, Math.abs(want)));
  }
}

// Some streams go through MKL where libtorch has it.
const mkl = torch.build().config.includes("Math Kernel Library");

describe("a seeded generator gives Python's numbers", () => {
  it("for every case of the fixture", () => {
    expect(new Set(fixture.cases.map((one) => one.name))).toEqual(new Set(Object.keys(make)));
  });

  for (const one of fixture.cases) {
    it.runIf(mkl || !/bernoulli|exponential_/.test(one.name))(`${one.name}, seed ${one.seed}`, () =>
      torch.scope(() => {
        using generator = new torch.Generator({ seed: one.seed });
        const actual = make[one.name](generator);
        expect(actual.dtype).toBe(one.dtype);
        expect(actual.shape).toEqual(one.shape);
        expectValues(actual, one.values, isExact(one.name));
      }),
    );
  }

  it("from the default generator after manualSeed", () =>
    torch.scope(() => {
      torch.manualSeed(42);
      expectValues(torch.rand([4]), fixture.sequence.rand, true);
      expectValues(torch.randn([4]), fixture.sequence.randn, false);
      torch.manualSeed(42n);
      expectValues(torch.rand([4]), fixture.sequence.rand, true);
    }));

  it.runIf(mkl)("in dropout", () =>
    torch.scope(() => {
      torch.manualSeed(7);
      expectValues(torch.dropout(torch.ones([24]), 0.3, true), fixture.sequence.dropout, true);
    }),
  );
});

describe("Generator", () => {
  it("goes back to a state", () =>
    torch.scope(() => {
      using generator = new torch.Generator({ seed: 5 });
      torch.rand([3], { generator });
      const state = generator.getState();
      expect(state.dtype).toBe("uint8");
      expectValues(torch.rand([3], { generator }), fixture.sequence.afterState, true);
      torch.rand([100], { generator });
      expect(generator.setState(state)).toBe(generator);
      expectValues(torch.rand([3], { generator }), fixture.sequence.afterState, true);
      using other = new torch.Generator({ seed: 0 });
      other.setState(state);
      expectValues(torch.rand([3], { generator: other }), fixture.sequence.afterState, true);
    }));

  it("leaves the default generator and other generators alone", () =>
    torch.scope(() => {
      torch.manualSeed(3);
      const undisturbed = torch.rand([4]).tolist();
      torch.manualSeed(3);
      using generator = new torch.Generator({ seed: 99 });
      torch.rand([10], { generator });
      expect(torch.rand([4]).tolist()).toEqual(undisturbed);
    }));

  it("takes seeds up to 2^64 and refuses others", () => {
    using generator = new torch.Generator({ seed: 2n ** 64n - 1n });
    generator.manualSeed(Number.MAX_SAFE_INTEGER);
    for (const seed of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53, -1n, 2n ** 64n]) {
      expect(() => new torch.Generator({ seed }), String(seed)).toThrowError(
        expect.objectContaining({ code: "TORCH_VALUE" }),
      );
      expect(() => torch.manualSeed(seed), String(seed)).toThrowError(expect.objectContaining({ code: "TORCH_VALUE" }));
    }
  });

  it("is an error once disposed", () => {
    const generator = new torch.Generator({ seed: 1 });
    generator.dispose();
    generator.dispose();
    expect(() => torch.rand([2], { generator })).toThrowError(
      expect.objectContaining({
        code: "TORCH_DISPOSED",
        message: expect.stringMatching(/^rand: argument 'generator'/),
      }),
    );
    expect(() => generator.manualSeed(1)).toThrowError(expect.objectContaining({ code: "TORCH_DISPOSED" }));
    expect(() => generator.getState()).toThrowError(expect.objectContaining({ code: "TORCH_DISPOSED" }));
  });
});
