// backward, grad and the modes. Values of gradients against Python: golden.test.ts.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import * as torch from "../../lib/torch/index.js";
import { leftBehind, thrownBy, torchError } from "./support.js";

const leaf = (values: torch.TensorData) => torch.tensor(values, { requiresGrad: true });

describe("backward", () => {
  it("adds gradients to the leaves", () => {
    torch.scope(() => {
      const x = leaf([1, 2]);
      const y = leaf([3, 4]);
      x.mul(y).sum().backward();
      expect(x.grad?.tolist()).toEqual([3, 4]);
      expect(y.grad?.tolist()).toEqual([1, 2]);
      x.mul(2).sum().backward();
      expect(x.grad?.tolist()).toEqual([5, 6]);
    });
  });

  it("takes a gradient for what is no scalar", () => {
    torch.scope(() => {
      const x = leaf([1, 2]);
      x.mul(3).backward(torch.tensor([1, 10]));
      expect(x.grad?.tolist()).toEqual([3, 30]);
      expect(() => x.mul(3).backward()).toThrowError(torchError("TORCH_ERROR", /scalar outputs/, "backward"));
      expect(() => x.mul(3).backward(torch.ones([3]))).toThrowError(
        torchError("TORCH_ERROR", /got \[3\] but expected shape compatible with \[2\]/),
      );
    });
  });

  it("of several tensors in one pass", () => {
    torch.scope(() => {
      const x = leaf([1, 2]);
      torch.backward([x.sum(), x.mul(x)], [null, torch.tensor([1, 1])]);
      expect(x.grad?.tolist()).toEqual([3, 5]);
      expect(() => torch.backward([x.mul(2)])).toThrowError(torchError("TORCH_ERROR", /scalar outputs/, "backward"));
    });
  });

  it("frees the graph unless asked to retain it", () => {
    torch.scope(() => {
      const x = leaf([2]);
      const y = x.mul(x).sum();
      y.backward(null, { retainGraph: true });
      y.backward();
      expect(x.grad?.tolist()).toEqual([8]);
      expect(() => y.backward()).toThrowError(
        torchError("TORCH_ERROR", /backward through the graph a second time/, "backward"),
      );
    });
  });

  it("needs something that records", () => {
    torch.scope(() => {
      expect(() => torch.tensor(1).backward()).toThrowError(torchError("TORCH_ERROR", /does not require grad/));
      expect(() => torch.grad([torch.tensor(1)], [leaf(1)])).toThrowError(
        torchError("TORCH_ERROR", /does not require grad/),
      );
    });
  });

  it("keeps the gradient of what is no leaf with retainGrad", () => {
    torch.scope(() => {
      const x = leaf([1, 2]);
      const y = x.mul(2);
      const z = x.mul(3);
      y.retainGrad();
      y.mul(z).sum().backward();
      expect(y.grad?.tolist()).toEqual([3, 6]);
      expect(z.grad).toBeNull();
      expect(() => torch.tensor(1).retainGrad()).toThrowError(
        torchError("TORCH_ERROR", /requires_grad=False/, "retainGrad"),
      );
    });
  });

  it("leaves nothing behind, also when it throws", () => {
    const x = leaf([1, 2]);
    expect(
      leftBehind(() =>
        torch.scope(() => {
          x.mul(2).sum().backward();
          expect(() => x.mul(2).backward()).toThrow();
          torch.grad([x.mul(2).sum()], [x]);
        }),
      ),
    ).toBe(0);
    x.dispose();
  });

  it("agrees with finite differences", () => {
    fc.assert(
      fc.property(fc.array(fc.double({ min: -2, max: 2, noNaN: true }), { minLength: 1, maxLength: 5 }), (values) => {
        torch.scope(() => {
          const f = (x: torch.Tensor) => x.sin().mul(x.exp()).add(x.square()).sum();
          const x = torch.tensor(values, { dtype: "float64", requiresGrad: true });
          const [gradient] = torch.grad([f(x)], [x]);
          for (const [i] of values.entries()) {
            const at = (h: number) =>
              f(
                torch.tensor(
                  values.map((v, j) => (i === j ? v + h : v)),
                  { dtype: "float64" },
                ),
              ).item();
            expect(gradient?.index(i).item()).toBeCloseTo((at(1e-5) - at(-1e-5)) / 2e-5, 5);
          }
        });
      }),
      { numRuns: 30 },
    );
  });
});

describe("grad", () => {
  it("leaves .grad alone", () => {
    torch.scope(() => {
      const x = leaf([1, 2]);
      const [gradient] = torch.grad([x.mul(x).sum()], [x]);
      expect(gradient?.tolist()).toEqual([2, 4]);
      expect(gradient?.requiresGrad).toBe(false);
      expect(x.grad).toBeNull();
    });
  });

  it("createGraph makes gradients that can be differentiated again", () => {
    torch.scope(() => {
      const x = leaf([1, 2]);
      const [first] = torch.grad([x.pow(3).sum()], [x], { createGraph: true });
      expect(first?.tolist()).toEqual([3, 12]);
      const [second] = torch.grad([(first as torch.Tensor).sum()], [x], { createGraph: true });
      expect(second?.tolist()).toEqual([6, 12]);
      (second as torch.Tensor).sum().backward();
      expect(x.grad?.tolist()).toEqual([6, 6]);
    });
  });

  it("takes gradOutputs", () => {
    torch.scope(() => {
      const x = leaf([1, 2]);
      const [gradient] = torch.grad([x.mul(3), x.sum()], [x], { gradOutputs: [torch.tensor([1, 10]), null] });
      expect(gradient?.tolist()).toEqual([4, 31]);
    });
  });

  it("names an input that is not used, or gives null on request", () => {
    torch.scope(() => {
      const x = leaf([1]);
      const y = leaf([1]);
      expect(() => torch.grad([x.sum()], [x, y])).toThrowError(
        torchError("TORCH_ERROR", /appears to not have been used/, "grad"),
      );
      const [gx, gy] = torch.grad([x.sum()], [x, y], { allowUnused: true });
      expect(gx?.tolist()).toEqual([1]);
      expect(gy).toBeNull();
    });
  });

  it("of what is no leaf", () => {
    torch.scope(() => {
      const x = leaf([3]);
      const y = x.mul(2);
      const [gradient] = torch.grad([y.mul(y).sum()], [y]);
      expect(gradient?.tolist()).toEqual([12]);
    });
  });

  it("refuses disposed tensors by name, wherever they stand", () => {
    torch.scope(() => {
      const gone = torch.tensor([1]);
      gone.dispose();
      const x = leaf([1]);
      for (const call of [
        () => torch.grad([gone], [x]),
        () => torch.grad([x.sum()], [gone]),
        () => torch.grad([x.mul(1)], [x], { gradOutputs: [gone] }),
      ])
        expect(call).toThrowError(torchError("TORCH_DISPOSED", /^grad: /, "grad"));
      expect(() => torch.backward([gone])).toThrowError(torchError("TORCH_DISPOSED", /^backward: /));
      expect(() => x.mul(1).backward(gone)).toThrowError(torchError("TORCH_DISPOSED", /^backward: /));
      expect(() => gone.backward()).toThrowError(torchError("TORCH_DISPOSED", /^backward: /));
      expect(() => {
        x.grad = gone;
      }).toThrowError(torchError("TORCH_DISPOSED", /^grad: /));
      expect(x.grad).toBeNull();
    });
  });
});

describe("a tensor's state", () => {
  it("requiresGrad, isLeaf, gradFn", () => {
    torch.scope(() => {
      const x = torch.tensor([1]);
      expect([x.requiresGrad, x.isLeaf, x.gradFn]).toEqual([false, true, null]);
      x.requiresGrad = true;
      const y = x.add(1);
      expect([y.requiresGrad, y.isLeaf, y.gradFn]).toEqual([true, false, expect.stringMatching(/^AddBackward\d$/)]);
      expect(x.requiresGrad_(false)).toBe(x);
      expect(x.requiresGrad).toBe(false);
      expect(() => y.requiresGrad_(false)).toThrowError(torchError("TORCH_ERROR", /leaf/, "requiresGrad_"));
    });
  });

  it("detach shares memory and leaves the graph", () => {
    torch.scope(() => {
      const x = leaf([1, 2]);
      const y = x.mul(2);
      const free = y.detach();
      expect(free.requiresGrad).toBe(false);
      free.zero_();
      expect(y.tolist()).toEqual([0, 0]);
      x.mul(x.detach()).sum().backward();
      expect(x.grad?.tolist()).toEqual([1, 2]);
    });
  });

  it(".grad can be set and taken away", () => {
    torch.scope(() => {
      const x = leaf([1, 2]);
      expect(x.grad).toBeNull();
      x.grad = torch.tensor([5, 5]);
      x.mul(1).sum().backward();
      expect(x.grad?.tolist()).toEqual([6, 6]);
      x.grad?.zero_();
      expect(x.grad?.tolist()).toEqual([0, 0]);
      x.grad = null;
      expect(x.grad).toBeNull();
      for (const wrong of [torch.ones([3]), torch.ones([2], { dtype: "float64" }), torch.ones([2], { device: "meta" })])
        expect(() => {
          x.grad = wrong;
        }).toThrowError(torchError("TORCH_ERROR", /^grad: assigned grad/, "grad"));
    });
  });

  it("counts writes in place", () => {
    torch.scope(() => {
      const x = torch.tensor([1, 2]);
      expect(x.version).toBe(0);
      x.add_(1);
      x.index(0).zero_();
      expect(x.version).toBe(2);
    });
  });
});

describe("writing in place", () => {
  it("into what the backward needs is an error there", () => {
    torch.scope(() => {
      const x = leaf([1, 2]);
      const y = x.exp();
      const loss = y.sum();
      y.mul_(2);
      expect(() => loss.backward()).toThrowError(torchError("TORCH_ERROR", /modified by an inplace operation/));
      const z = x.mul(2);
      z.add_(1); // the product needs its inputs only
      z.sum().backward();
      expect(x.grad?.tolist()).toEqual([2, 2]);
    });
  });

  it("into a leaf is an error, but for noGrad", () => {
    torch.scope(() => {
      const x = leaf([1, 2]);
      expect(() => x.add_(1)).toThrowError(torchError("TORCH_ERROR", /leaf Variable.*in-place/, "add_"));
      torch.noGrad(() => x.add_(1));
      expect(x.tolist()).toEqual([2, 3]);
    });
  });

  it("through a view reaches the gradient", () => {
    torch.scope(() => {
      const x = leaf([1, 2, 3]);
      const y = x.mul(1);
      y.index(torch.slice(0, 2)).mul_(10);
      y.sum().backward();
      expect(x.grad?.tolist()).toEqual([10, 10, 1]);
    });
  });
});

describe("modes", () => {
  it("noGrad and enableGrad nest, and give back what was before", () => {
    torch.scope(() => {
      const x = leaf([1]);
      expect(torch.isGradEnabled()).toBe(true);
      torch.noGrad(() => {
        expect(torch.isGradEnabled()).toBe(false);
        expect(x.mul(2).requiresGrad).toBe(false);
        torch.enableGrad(() => {
          expect(x.mul(2).requiresGrad).toBe(true);
          torch.noGrad(() => expect(x.mul(2).requiresGrad).toBe(false));
          expect(torch.isGradEnabled()).toBe(true);
        });
        expect(torch.isGradEnabled()).toBe(false);
      });
      expect(torch.isGradEnabled()).toBe(true);
      expect(torch.noGrad(() => 7)).toBe(7);
    });
  });

  it.each([
    ["noGrad", torch.noGrad],
    ["enableGrad", torch.enableGrad],
    ["inferenceMode", torch.inferenceMode],
    ["autocast", <T>(fn: () => T) => torch.autocast({ device: "cpu" }, fn)],
  ])("%s ends with an exception, which passes unchanged, and refuses async functions", (name, mode) => {
    const problem = new Error("mine");
    expect(
      thrownBy(() =>
        mode(() => {
          throw problem;
        }),
      ),
    ).toBe(problem);
    expect(torch.isGradEnabled()).toBe(true);
    expect(() => mode(async () => 1)).toThrowError(
      torchError("TORCH_SCOPE", new RegExp(`^${name}\\(fn\\): fn must be synchronous`)),
    );
    expect(() => mode(() => Promise.reject(problem))).toThrowError(torchError("TORCH_SCOPE"));
    torch.scope(() => {
      expect(torch.isGradEnabled()).toBe(true);
      expect(leaf([1]).mul(2).isInference()).toBe(false);
      expect(torch.ones([2, 2]).matmul(torch.ones([2, 2])).dtype).toBe("float32");
    });
  });

  it("inferenceMode's tensors never join a graph", () => {
    torch.scope(() => {
      const x = leaf([1, 2]);
      const y = torch.inferenceMode(() => {
        expect(torch.isGradEnabled()).toBe(false);
        return torch.inferenceMode(() => x.mul(2));
      });
      expect(y.requiresGrad).toBe(false);
      expect(y.isInference()).toBe(true);
      expect(() => y.version).toThrowError(torchError("TORCH_ERROR", /version counter/, "version"));
      expect(() => x.mul(y).sum().backward()).toThrowError(
        torchError("TORCH_ERROR", /Inference tensors cannot be saved/, "mul"),
      );
      expect(y.add(1).tolist()).toEqual([3, 5]);
    });
  });
});

describe("autocast", () => {
  it("computes products in the lower precision and the rest in full", () => {
    torch.scope(() => {
      const x = torch.randn([4, 4]);
      torch.autocast({ device: "cpu", dtype: "bfloat16" }, () => {
        expect(x.matmul(x).dtype).toBe("bfloat16");
        expect(x.add(x).dtype).toBe("float32");
        expect(torch.linear(x, x).dtype).toBe("bfloat16");
        torch.autocast({ device: "cpu", enabled: false }, () => expect(x.matmul(x).dtype).toBe("float32"));
        torch.autocast({ device: "cpu", dtype: "float16" }, () => expect(x.matmul(x).dtype).toBe("float16"));
        expect(x.matmul(x).dtype).toBe("bfloat16");
      });
      expect(x.matmul(x).dtype).toBe("float32");
    });
  });

  it("gives parameters gradients of their own dtype", () => {
    torch.scope(() => {
      const weight = leaf([
        [1, 2],
        [3, 4],
      ]);
      const loss = torch.autocast({ device: "cpu" }, () => torch.ones([1, 2]).matmul(weight).sum());
      loss.backward();
      expect(weight.grad?.dtype).toBe("float32");
      expect(weight.grad?.tolist()).toEqual([
        [1, 1],
        [1, 1],
      ]);
    });
  });

  it("forgets its cached casts at the end", () => {
    torch.scope(() => {
      const weight = leaf([[1]]);
      const one = torch.ones([1, 1]);
      const product = () => torch.autocast({ device: "cpu" }, () => one.matmul(weight).item());
      expect(product()).toBe(1);
      torch.noGrad(() => weight.fill_(2));
      expect(product()).toBe(2);
      expect(() =>
        torch.autocast({ device: "cpu" }, () => {
          one.matmul(weight);
          throw new Error("out");
        }),
      ).toThrow("out");
      torch.noGrad(() => weight.fill_(3));
      expect(product()).toBe(3);
    });
  });

  it("refuses what is no lower precision, and devices without it", () => {
    for (const dtype of ["float32", "int64"] as const)
      expect(() => torch.autocast({ device: "cpu", dtype }, () => 1)).toThrowError(
        torchError("TORCH_TYPE", /dtype must be bfloat16 or float16/),
      );
    expect(() => torch.autocast({ device: "meta" }, () => 1)).toThrowError(
      torchError("TORCH_ERROR", /autocast/, "autocast"),
    );
    expect(() => torch.autocast({ device: "nonsense" }, () => 1)).toThrowError(torchError("TORCH_ERROR", /nonsense/));
  });
});
