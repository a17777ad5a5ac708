import { afterEach, describe, expect, it } from "vitest";
import { Linear, Module, NnError, parameter, RMSNorm, StateDictError } from "../../lib/nn/index.js";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";

class Block extends Module {
  readonly norm = new RMSNorm(4);
  readonly linear = new Linear(4, 3);
  readonly scale = parameter(torch.ones([2]));
  readonly heads = [new Linear(3, 2, { bias: false }), new Linear(3, 2, { bias: false })];
  readonly size = 4;
  readonly #cache = torch.zeros([7]);

  cache(): Tensor {
    return this.#cache;
  }
}

class Tied extends Module {
  readonly first = new Linear(3, 3, { bias: false });
  readonly second = new Linear(3, 3, { bias: false });

  constructor() {
    super();
    this.second.weight.dispose();
    this.second.weight = this.first.weight;
  }
}

const made: Module[] = [];
function make<M extends Module>(module: M): M {
  made.push(module);
  return module;
}

afterEach(() => {
  for (const module of made.splice(0)) module.dispose();
});

describe("Module", () => {
  it("finds parameters in its own properties, in modules and in arrays, and nothing else", () => {
    const block = make(new Block());
    expect([...block.namedParameters()].map(([name]) => name)).toEqual([
      "norm.weight",
      "linear.weight",
      "linear.bias",
      "scale",
      "heads.0.weight",
      "heads.1.weight",
    ]);
    expect(block.numParameters()).toBe(4 + 12 + 3 + 2 + 6 + 6);
    expect([...block.namedModules("block")].map(([name]) => name)).toEqual([
      "block",
      "block.norm",
      "block.linear",
      "block.heads.0",
      "block.heads.1",
    ]);
    expect(block.cache().disposed).toBe(false);
  });

  it("keeps parameters out of the scope they are made in", () => {
    const linear = make(torch.scope(() => new Linear(2, 2)));
    expect(linear.weight.tolist()).toHaveLength(2);
  });

  it("counts tied parameters once, names both in the state dict, and keeps them tied when converted", () => {
    const tied = make(new Tied());
    expect(tied.numParameters()).toBe(9);
    expect(Object.keys(tied.stateDict())).toEqual(["first.weight", "second.weight"]);
    const before = tied.first.weight;
    tied.to({ dtype: "bf16" });
    expect(tied.first.weight).toBe(tied.second.weight);
    expect(tied.first.weight.dtype).toBe("bfloat16");
    expect(tied.first.weight.requiresGrad).toBe(true);
    expect(before.disposed).toBe(true);
  });

  it("loads a state dict with conversion", () => {
    const block = make(new Block());
    const other = make(new Block());
    const state = other.stateDict();
    state.scale = torch.tensor([5, 6], { dtype: "float64" });
    block.loadStateDict(state);
    expect(block.linear.weight.tolist()).toEqual(other.linear.weight.tolist());
    expect(block.scale.tolist()).toEqual([5, 6]);
    expect(block.scale.dtype).toBe("float32");
  });

  it("names everything that does not fit and copies nothing", () => {
    const block = make(new Block());
    const before = block.scale.tolist();
    const state = block.stateDict();
    delete state["linear.bias"];
    state.surprise = torch.zeros([1]);
    state.scale = torch.zeros([3]);
    let error: unknown;
    try {
      block.loadStateDict(state);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(StateDictError);
    expect(error).toBeInstanceOf(NnError);
    const found = error as StateDictError;
    expect(found.code).toBe("NN_STATE_DICT");
    expect(found.missing).toEqual(["linear.bias"]);
    expect(found.unexpected).toEqual(["surprise"]);
    expect(found.mismatched).toEqual([{ name: "scale", expected: [2], found: [3] }]);
    expect(found.message).toContain("scale is [3], expected [2]");
    expect(block.scale.tolist()).toEqual(before);
    state.scale = torch.tensor([7, 8]);
    block.loadStateDict(state, { strict: false });
    expect(block.scale.tolist()).toEqual([7, 8]);
  });

  it("freezes, drops gradients and frees", () => {
    const block = new Block();
    block.linear
      .forward(torch.ones([1, 4]))
      .sum()
      .backward();
    expect(block.linear.weight.grad).not.toBeNull();
    block.zeroGrad();
    expect(block.linear.weight.grad).toBeNull();
    block.linear.requiresGrad_(false);
    expect(block.numParameters({ trainableOnly: true })).toBe(block.numParameters() - 15);
    block.dispose();
    expect(() => block.scale.tolist()).toThrow();
  });

  it("makes shapes without memory on the meta device", () => {
    const before = torch.memory().host;
    const linear = make(new Linear(100_000, 100_000, { device: "meta" }));
    expect(linear.numParameters()).toBe(100_000 * 100_001);
    expect(torch.memory().host - before).toBeLessThan(1e6);
  });
});
