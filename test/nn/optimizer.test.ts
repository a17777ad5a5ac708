import { describe, expect, it } from "vitest";
import {
  AdamW,
  type AdamWOptions,
  CombinedOptimizer,
  decayGroups,
  Embedding,
  Linear,
  Module,
  Muon,
  type MuonOptions,
  NnError,
  type Optimizer,
  type ParameterGroup,
  parameter,
  RMSNorm,
  SGD,
  StateDictError,
} from "../../lib/nn/index.js";
import { newtonSchulz } from "../../lib/nn/muon.js";
import type { DTypeLike, Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";
import { difference, golden } from "./golden.js";

/** Runs a golden file's gradients through an optimiser and returns the largest deviation over all steps. */
function replay(
  file: string,
  make: (parameters: Map<string, Tensor>) => Optimizer,
  dtype: DTypeLike = "float32",
  expected: (golden: Tensor) => Tensor = (value) => value,
): number {
  return torch.scope(() => {
    const { tensors, metadata } = golden(`optim/${file}.safetensors`);
    const names = Object.keys(tensors).flatMap((name) => (name.startsWith("0.") ? [name.slice(2)] : []));
    const parameters = new Map(names.map((name) => [name, parameter(tensors[`0.${name}`].to(dtype).clone())]));
    const optimizer = make(parameters);
    let worst = 0;
    for (const [step, lr] of (JSON.parse(metadata.rates) as number[]).entries()) {
      for (const [name, tensor] of parameters) tensor.grad = tensors[`${step + 1}.grad.${name}`].clone();
      optimizer.step(lr);
      for (const [name, tensor] of parameters) {
        worst = Math.max(worst, difference(tensor, expected(tensors[`${step + 1}.${name}`])));
      }
      optimizer.zeroGrad();
    }
    optimizer.dispose();
    for (const tensor of parameters.values()) tensor.dispose();
    return worst;
  });
}

function groups(parameters: Map<string, Tensor>): ParameterGroup[] {
  const entries = [...parameters];
  return [
    { parameters: entries.filter(([, tensor]) => tensor.ndim > 1), weightDecay: 0.1 },
    { parameters: entries.filter(([, tensor]) => tensor.ndim <= 1), weightDecay: 0 },
  ];
}

describe("AdamW", () => {
  it.each([true, false])("follows torch.optim.AdamW over five steps (fused: %s)", (fused) => {
    expect(replay("adamw", (parameters) => new AdamW(groups(parameters), { fused }))).toBeLessThan(1e-6);
  });

  it.each([true, false])("with bfloat16 parameters rounds a float32 run (fused: %s)", (fused) => {
    const make = (parameters: Map<string, Tensor>) => new AdamW(groups(parameters), { fused });
    expect(replay("adamw-bf16", make, "bfloat16", (value) => value.bfloat16())).toBeLessThan(2 ** -9);
  });

  it("keeps updates that bfloat16 alone would lose", () => {
    const weight = parameter(torch.ones([4], { dtype: "bf16" }));
    const optimizer = new AdamW([["weight", weight]], { weightDecay: 0 });
    torch.scope(() => {
      for (let step = 0; step < 100; step++) {
        weight.grad = torch.ones([4], { dtype: "bf16" });
        optimizer.step(1e-4); // far below bfloat16's step of 2^-8 at 1
      }
    });
    expect((weight.tolist() as number[])[0]).toBeCloseTo(0.99, 2);
    expect((weight.tolist() as number[])[0]).toBeLessThan(1);
  });

  it("continues from a saved state bit for bit", () => {
    const run = (from: number, to: number, weight: Tensor, optimizer: AdamW) =>
      torch.scope(() => {
        for (let step = from; step < to; step++) {
          weight.grad = torch.randn([6, 5], { generator: new torch.Generator({ seed: step }) });
          optimizer.step(0.01);
        }
      });
    const start = () => parameter(torch.ones([6, 5]));
    const whole = start();
    run(0, 8, whole, new AdamW([["w", whole]]));

    const half = start();
    const first = new AdamW([["w", half]]);
    run(0, 4, half, first);
    const second = new AdamW([["w", half]]);
    second.loadStateDict(first.stateDict());
    expect(second.steps).toBe(4);
    run(4, 8, half, second);
    expect(half.toTypedArray()).toEqual(whole.toTypedArray());
  });

  it("refuses a state that does not fit, naming the tensors", () => {
    const weight = parameter(torch.ones([2]));
    const optimizer = new AdamW([["w", weight]]);
    const state = { step: 1, tensors: { "w.expAvg": torch.zeros([3]), "v.expAvg": torch.zeros([2]) } };
    expect(() => optimizer.loadStateDict(state)).toThrow(StateDictError);
    expect(() => optimizer.loadStateDict(state)).toThrow(
      /missing: w.expAvgSq[\s\S]*unexpected: v.expAvg[\s\S]*w.expAvg is \[3\], expected \[2\]/,
    );
    expect(() => optimizer.loadStateDict({ step: -1, tensors: {} })).toThrow(NnError);
  });

  it("refuses options and rates that are none", () => {
    const weight = parameter(torch.ones([2]));
    const bad: AdamWOptions[] = [{ betas: [1, 0.9] }, { betas: [0.9, -0.1] }, { eps: -1 }];
    for (const options of bad) expect(() => new AdamW([["w", weight]], options)).toThrow(NnError);
    expect(() => new AdamW([])).toThrow(/no parameter/);
    expect(
      () =>
        new AdamW([
          ["w", weight],
          ["w", weight],
        ]),
    ).toThrow(/given twice/);
    expect(() => new AdamW([["w", weight]]).step(Number.NaN)).toThrow(/learning rate/);
  });

  it("leaves parameters without a gradient and frozen ones alone", () => {
    const [a, b] = [parameter(torch.ones([2])), parameter(torch.ones([2]))];
    const frozen = parameter(torch.ones([2]), false);
    const optimizer = new AdamW([
      ["a", a],
      ["b", b],
      ["frozen", frozen],
    ]);
    a.grad = torch.ones([2]);
    optimizer.step(0.1);
    expect((a.tolist() as number[])[0]).toBeLessThan(1);
    expect(b.tolist()).toEqual([1, 1]);
    expect(Object.keys(optimizer.stateDict().tensors)).toEqual(["a.expAvg", "a.expAvgSq", "b.expAvg", "b.expAvgSq"]);
  });

  it("lets a group scale the rate", () => {
    const [a, b] = [parameter(torch.zeros([1])), parameter(torch.zeros([1]))];
    const optimizer = new AdamW([{ parameters: [["a", a]] }, { parameters: [["b", b]], lrScale: 0.5 }]);
    [a, b].forEach((tensor) => {
      tensor.grad = torch.ones([1]);
    });
    optimizer.step(0.1);
    expect(a.item()).toBeCloseTo(-0.1, 6);
    expect(b.item()).toBeCloseTo(-0.05, 6);
  });

  it("takes new weights into the master copies when asked", () => {
    const weight = parameter(torch.zeros([2], { dtype: "bf16" }));
    const optimizer = new AdamW([["w", weight]], { weightDecay: 0 });
    torch.noGrad(() => weight.fill_(3));
    optimizer.syncMasters();
    weight.grad = torch.zeros([2], { dtype: "bf16" });
    optimizer.step(0.1);
    expect(weight.tolist()).toEqual([3, 3]);
  });
});

describe("Muon", () => {
  it.each([
    ["muon-float32", { adjustLrFn: "match_rms_adamw", nsDtype: "float32" }, 1e-6],
    // Products in bfloat16 are rounded in other places where matrices are iterated together.
    ["muon", {}, 1e-3],
  ] as [string, MuonOptions, number][])("follows torch.optim.Muon over five steps: %s", (file, options, tolerance) => {
    expect(replay(file, (parameters) => new Muon(parameters, options))).toBeLessThan(tolerance);
  });

  it("orthogonalizes: singular values come out near 1", () => {
    torch.scope(() => {
      torch.manualSeed(0);
      for (const shape of [
        [3, 8, 20],
        [2, 20, 8],
        [1, 6, 6],
      ]) {
        const settings = {
          nsCoefficients: [3.4445, -4.775, 2.0315] as [number, number, number],
          nsSteps: 5,
          eps: 1e-7,
        };
        const x = newtonSchulz(torch.randn(shape), { ...settings, nsDtype: "float32" });
        expect(x.shape).toEqual(shape);
        const values = (torch.ops.aten.linalg_svdvals(x) as Tensor).flatten().toTypedArray();
        for (const value of values) expect(Math.abs(Number(value) - 1)).toBeLessThan(0.4);
      }
    });
  });

  it("takes matrices alone, and says which parameter is none", () => {
    torch.scope(() => {
      const weight = parameter(torch.zeros([2, 3]));
      const bias = parameter(torch.zeros([3]));
      expect(
        () =>
          new Muon([
            ["weight", weight],
            ["bias", bias],
          ]),
      ).toThrow(/Muon takes matrices, but bias has the shape \[3\]/);
      expect(() => new Muon([["weight", weight]], { nsSteps: 0 })).toThrow(NnError);
      expect(new Muon([["weight", weight]]).elementwise).toBe(false);
    });
  });
});

describe("CombinedOptimizer", () => {
  it("steps its parts with their learning rates, and saves and loads their states as one", () => {
    torch.scope(() => {
      torch.manualSeed(1);
      const gradients = [0, 1, 2, 3].map(() => ({ weight: torch.randn([4, 3]), bias: torch.randn([4]) }));
      const start = { weight: torch.randn([4, 3]), bias: torch.randn([4]) };
      const make = () => {
        const weight = parameter(start.weight.clone());
        const bias = parameter(start.bias.clone());
        const optimizer = new CombinedOptimizer([
          { optimizer: new Muon([["weight", weight]]) },
          { optimizer: new AdamW([["bias", bias]]), lrScale: 0.5 },
        ]);
        return { weight, bias, optimizer };
      };
      const run = ({ weight, bias, optimizer }: ReturnType<typeof make>, from: number, to: number) => {
        for (let i = from; i < to; i++) {
          weight.grad = gradients[i].weight.clone();
          bias.grad = gradients[i].bias.clone();
          optimizer.step(0.1);
          optimizer.zeroGrad();
        }
      };
      const whole = make();
      run(whole, 0, 4);
      const first = make();
      run(first, 0, 2);
      const second = make();
      second.weight.detach().copy_(first.weight.detach());
      second.bias.detach().copy_(first.bias.detach());
      second.optimizer.loadStateDict(first.optimizer.stateDict());
      run(second, 2, 4);
      expect(difference(second.weight, whole.weight)).toBe(0);
      expect(difference(second.bias, whole.bias)).toBe(0);
      expect(whole.optimizer.elementwise).toBe(false);

      const alone = parameter(start.bias.clone());
      const adamw = new AdamW([["bias", alone]]);
      for (const { bias } of gradients) {
        alone.grad = bias.clone();
        adamw.step(0.05);
      }
      expect(difference(alone, whole.bias)).toBe(0);

      const { tensors, step } = first.optimizer.stateDict();
      const { "bias.expAvg": _, ...short } = tensors;
      const before = second.optimizer.stateDict().tensors["weight.momentum"].clone();
      expect(() => second.optimizer.loadStateDict({ step, tensors: short })).toThrow(StateDictError);
      expect(difference(second.optimizer.stateDict().tensors["weight.momentum"], before)).toBe(0);
      const twice = [new AdamW([["bias", alone]]), new AdamW([["bias", alone]])];
      expect(() => new CombinedOptimizer(twice.map((optimizer) => ({ optimizer })))).toThrow(
        /two optimizers have the state/,
      );
    });
  });
});

describe("SGD", () => {
  it("follows torch.optim.SGD with Nesterov momentum and weight decay", () => {
    const make = (parameters: Map<string, Tensor>) =>
      new SGD(parameters, { momentum: 0.9, nesterov: true, weightDecay: 0.01 });
    expect(replay("sgd", make)).toBeLessThan(1e-6);
  });

  it("without momentum is w - lr g", () => {
    const weight = parameter(torch.tensor([1, 2]));
    const optimizer = new SGD([["w", weight]]);
    weight.grad = torch.tensor([8, 16]);
    optimizer.step(0.125);
    expect(weight.tolist()).toEqual([0, 0]);
    expect(Object.keys(optimizer.stateDict().tensors)).toEqual([]);
  });
});

describe("decayGroups", () => {
  class Model extends Module {
    readonly embedTokens = new Embedding(4, 2);
    readonly norm = new RMSNorm(2);
    readonly linear = new Linear(2, 2);
  }
  const names = (group: ParameterGroup) => Array.from(group.parameters, ([name]) => name);

  it("decays matrices and nothing of one dimension", () => {
    const [decayed, plain] = decayGroups(new Model(), 0.1);
    expect(names(decayed)).toEqual(["embedTokens.weight", "linear.weight"]);
    expect(names(plain)).toEqual(["norm.weight", "linear.bias"]);
    expect([decayed.weightDecay, plain.weightDecay]).toEqual([0.1, 0]);
  });

  it("leaves embeddings out, or follows a rule of the user's", () => {
    expect(names(decayGroups(new Model(), 0.1, { embeddings: false })[0])).toEqual(["linear.weight"]);
    const own = decayGroups(new Model(), 0.1, { decays: (name) => name.endsWith("bias") });
    expect(names(own[0])).toEqual(["linear.bias"]);
  });
});
