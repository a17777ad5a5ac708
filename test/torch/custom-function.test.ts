// Functions whose backward is written in TypeScript. Everything runs twice: as on a machine without devices, and as with
// them, where a pass runs on other threads, which hand the calls to this one.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import * as torch from "../../lib/torch/index.js";
import { native } from "../../lib/torch/native.js";
import { heldTensors } from "./held-tensors.js";
import { leftBehind, thrownBy, torchError } from "./support.js";

type Tensor = torch.Tensor;
const leaf = (values: torch.TensorData) => torch.tensor(values, { requiresGrad: true });
const gradOf = (tensor: Tensor) => tensor.grad as Tensor;

const square = torch.defineFunction({
  forward(context, x: Tensor) {
    context.saveForBackward(x);
    return x.mul(x);
  },
  backward(context, gradient) {
    return (gradient as Tensor).mul(context.saved[0]).mul(2);
  },
});

/** exp, which saves its own output. */
const exponential = torch.defineFunction({
  forward(context, x: Tensor) {
    const y = x.exp();
    context.saveForBackward(y);
    return y;
  },
  backward: (context, gradient) => (gradient as Tensor).mul(context.saved[0]),
});

describe.each([
  ["on this thread", false],
  ["through another thread", true],
])("defineFunction, backward %s", (_, served) => {
  beforeAll(() => native.serveBackward(served));
  afterAll(() => native.serveBackward(false));

  it("computes and differentiates", () => {
    torch.scope(() => {
      const x = leaf([1, 2, 3]);
      const y = square(x);
      expect(y.tolist()).toEqual([1, 4, 9]);
      expect([y.requiresGrad, y.isLeaf]).toEqual([true, false]);
      y.mul(torch.tensor([1, 10, 100]))
        .sum()
        .backward();
      expect(gradOf(x).tolist()).toEqual([2, 40, 600]);
    });
  });

  it("records nothing when nothing asks for a gradient", () => {
    torch.scope(() => {
      expect(square(torch.tensor([2])).requiresGrad).toBe(false);
      expect(torch.noGrad(() => square(leaf([2]))).requiresGrad).toBe(false);
    });
  });

  it("the forward does not record, and the backward only under createGraph", () => {
    torch.scope(() => {
      const modes: boolean[] = [];
      const spy = torch.defineFunction({
        forward(context, x: Tensor) {
          modes.push(torch.isGradEnabled());
          context.saveForBackward(x);
          return x.clone();
        },
        backward(context, gradient) {
          modes.push(torch.isGradEnabled(), (gradient as Tensor).mul(context.saved[0]).requiresGrad);
          return gradient;
        },
      });
      const x = leaf([1]);
      spy(x).sum().backward();
      expect(modes).toEqual([false, false, false]);
      modes.length = 0;
      torch.grad([spy(x).sum()], [x], { createGraph: true });
      expect(modes).toEqual([false, true, true]);
      expect(torch.isGradEnabled()).toBe(true);
    });
  });

  it("differentiates twice, through saved inputs and saved outputs", () => {
    torch.scope(() => {
      const x = leaf([1, 2]);
      const [first] = torch.grad([square(x).mul(x).sum()], [x], { createGraph: true });
      expect(first?.tolist()).toEqual([3, 12]);
      const [second] = torch.grad([(first as Tensor).sum()], [x]);
      expect(second?.tolist()).toEqual([6, 12]);

      const y = torch.tensor([0, 1], { dtype: "float64", requiresGrad: true });
      const [once] = torch.grad([exponential(y).sum()], [y], { createGraph: true });
      const [twice] = torch.grad([(once as Tensor).sum()], [y], { createGraph: true });
      const [thrice] = torch.grad([(twice as Tensor).sum()], [y]);
      for (const derivative of [once, twice, thrice]) {
        expect(derivative?.index(0).item()).toBeCloseTo(1, 12);
        expect(derivative?.index(1).item()).toBeCloseTo(Math.E, 12);
      }
    });
  });

  it("several inputs and outputs, other values in between, null where there is no gradient", () => {
    torch.scope(() => {
      const seen: unknown[] = [];
      const f = torch.defineFunction({
        forward(context, scale: number, x: Tensor, options: { negate: boolean }, y: Tensor, ids: Tensor) {
          context.scale = scale;
          context.negate = options.negate;
          return [x.mul(scale), y.add(1), ids.add(1)];
        },
        backward(context, gx, gy, gids) {
          seen.push(gids);
          const sign = context.negate ? -1 : 1;
          return [null, (gx as Tensor).mul(context.scale as number), null, gy === null ? null : gy.mul(sign), null];
        },
      });
      const x = leaf([1]);
      const y = leaf([1]);
      const [a, b, ids] = f(5, x, { negate: true }, y, torch.tensor([1n]));
      expect(ids.tolist()).toEqual([2]);
      expect(ids.requiresGrad).toBe(false);
      a.sum().add(b.sum()).backward();
      expect(gradOf(x).tolist()).toEqual([5]);
      expect(gradOf(y).tolist()).toEqual([-1]);
      expect(seen).toEqual([null]);

      // Only the first output is used: the second one's gradient is null, and so is its input's.
      x.grad = null;
      y.grad = null;
      f(2, x, { negate: false }, y, torch.tensor([1n]))[0]
        .sum()
        .backward();
      expect(gradOf(x).tolist()).toEqual([2]);
      expect(y.grad).toBeNull();
    });
  });

  it("one gradient per tensor is enough, any other number is an error", () => {
    torch.scope(() => {
      const gradients = (list: (Tensor | null)[]) =>
        torch.defineFunction({
          forward: (_, x: Tensor, n: number, y: Tensor) => x.mul(n).mul(y),
          backward: () => list,
        });
      const x = leaf([1]);
      const y = leaf([1]);
      gradients([torch.tensor([3]), torch.tensor([4])])(x, 2, y)
        .sum()
        .backward();
      expect([gradOf(x).item(), gradOf(y).item()]).toEqual([3, 4]);
      for (const list of [[], [null], [null, null, null, null]])
        expect(() => gradients(list)(x, 2, y).sum().backward()).toThrowError(
          torchError("TORCH_ARGUMENT", /backward returned \d gradients for 3 inputs/),
        );
      const two = leaf([1, 1]);
      expect(() =>
        gradients([torch.ones([3]), null])(two, 2, y)
          .sum()
          .backward(),
      ).toThrowError(torchError("TORCH_ERROR", /invalid gradient at index 0/));
      expect(() =>
        gradients([5 as unknown as Tensor, null])(x, 2, y)
          .sum()
          .backward(),
      ).toThrowError(torchError("TORCH_TYPE", /must return tensors or null/));
      const gone = torch.tensor([1]);
      gone.dispose();
      expect(() => gradients([gone, null])(x, 2, y).sum().backward()).toThrowError(torchError("TORCH_DISPOSED"));
    });
  });

  it("passes exceptions through unchanged, whatever they are", () => {
    torch.scope(() => {
      for (const problem of [
        new Error("mine"),
        new TypeError("typed"),
        "text",
        42,
        null,
        undefined,
        { any: "thing" },
      ]) {
        const bad = torch.defineFunction({
          forward: (_, x: Tensor) => x.clone(),
          backward() {
            throw problem;
          },
        });
        const x = leaf([1]);
        expect(thrownBy(() => bad(x).sum().backward())).toBe(problem);
        expect(thrownBy(() => torch.grad([bad(x).mul(2).sum()], [x]))).toBe(problem);
        const worse = torch.defineFunction({
          forward(_, x: Tensor): Tensor {
            x.mul(2);
            throw problem;
          },
          backward: () => null,
        });
        expect(thrownBy(() => worse(x))).toBe(problem);
        expect(torch.isGradEnabled()).toBe(true);
      }
      // And the next pass is whole again.
      const x = leaf([3]);
      square(x).sum().backward();
      expect(gradOf(x).item()).toBe(6);
    });
  });

  it("an operator's error inside names the operator", () => {
    torch.scope(() => {
      const bad = torch.defineFunction({
        forward: (_, x: Tensor) => x.clone(),
        backward: (_, gradient) => (gradient as Tensor).matmul(torch.ones([3, 3])),
      });
      expect(() =>
        bad(leaf([[1, 2]]))
          .sum()
          .backward(),
      ).toThrowError(torchError("TORCH_ERROR", /^matmul: /, "matmul"));
    });
  });

  it("sees a write in place into what it saved", () => {
    torch.scope(() => {
      const x = leaf([1, 2]);
      const inner = x.mul(1);
      const y = square(inner);
      inner.add_(1);
      expect(() => y.sum().backward()).toThrowError(torchError("TORCH_ERROR", /modified by an inplace operation/));
      const z = exponential(x);
      z.mul_(2);
      expect(() => z.sum().backward()).toThrowError(torchError("TORCH_ERROR", /modified by an inplace operation/));
    });
  });

  it("cannot run twice unless the graph is retained", () => {
    torch.scope(() => {
      const x = leaf([3]);
      const loss = square(x).sum();
      loss.backward(null, { retainGraph: true });
      loss.backward();
      expect(gradOf(x).item()).toBe(12);
      expect(() => loss.backward()).toThrowError(torchError("TORCH_ERROR", /second time/));
    });
  });

  it("nests: functions within functions, and chains", () => {
    torch.scope(() => {
      const fourth = torch.defineFunction({
        forward(context, x: Tensor) {
          context.saveForBackward(x);
          return square(square(x));
        },
        backward(context, gradient) {
          const [x] = context.saved;
          return (gradient as Tensor).mul(square(x)).mul(x).mul(4);
        },
      });
      const x = leaf([2]);
      fourth(x).sum().backward();
      expect(gradOf(x).item()).toBe(32);
      x.grad = null;
      square(square(square(x)))
        .sum()
        .backward();
      expect(gradOf(x).item()).toBe(8 * 2 ** 7);
    });
  });

  it("a backward pass within a backward", () => {
    torch.scope(() => {
      // The derivative of f at x, found by autograd itself: as activation checkpointing does.
      const recomputed = (f: (x: Tensor) => Tensor) =>
        torch.defineFunction({
          forward(context, x: Tensor) {
            context.saveForBackward(x);
            return f(x);
          },
          backward(context, gradient) {
            const x = context.saved[0].detach().requiresGrad_();
            return torch.enableGrad(() => torch.grad([f(x)], [x], { gradOutputs: [gradient] }))[0];
          },
        });
      const x = leaf([1, 2]);
      recomputed((t) => square(t).mul(3))(x)
        .sum()
        .backward();
      expect(gradOf(x).tolist()).toEqual([6, 12]);
      x.grad = null;
      const inner = recomputed((t) => square(t));
      const outer = recomputed((t) => inner(inner(t)));
      outer(x).sum().backward();
      expect(gradOf(x).tolist()).toEqual([4, 32]);

      const problem = new Error("deep inside");
      const failing = recomputed((t) =>
        torch.defineFunction({
          forward: (_, u: Tensor) => u.clone(),
          backward() {
            throw problem;
          },
        })(t),
      );
      expect(thrownBy(() => failing(x).sum().backward())).toBe(problem);
    });
  });

  it("an output may be an input, a view, or an older tensor", () => {
    torch.scope(() => {
      const constant = torch.tensor([7]);
      const identity = torch.defineFunction({ forward: (_, x: Tensor) => x, backward: (_, g) => (g as Tensor).mul(3) });
      const flat = torch.defineFunction({
        forward: (_, x: Tensor) => x.view([-1]),
        backward: (_, g) => (g as Tensor).view([1, 2]),
      });
      const fixed = torch.defineFunction({ forward: (_, _x: Tensor) => constant, backward: (_, g) => g });
      const x = leaf([[1, 2]]);
      identity(x).sum().backward();
      expect(gradOf(x).tolist()).toEqual([[3, 3]]);
      expect(x.isLeaf).toBe(true);
      flat(x)
        .mul(torch.tensor([1, 5]))
        .sum()
        .backward();
      expect(gradOf(x).tolist()).toEqual([[4, 8]]);
      const y = leaf([1]);
      fixed(y).sum().backward();
      expect(gradOf(y).item()).toBe(1);
      expect(constant.tolist()).toEqual([7]);
      expect(constant.requiresGrad).toBe(false);
    });
  });

  it("frees with the graph what the backward saw and made", () => {
    expect(
      leftBehind(() =>
        torch.scope(() => {
          const x = leaf([1, 2]);
          let during = 0;
          const greedy = torch.defineFunction({
            forward(context, t: Tensor) {
              context.saveForBackward(t, t.mul(2));
              return t.exp();
            },
            backward(context, gradient) {
              for (let i = 0; i < 10; i++) context.saved[0].add(i);
              during = heldTensors();
              return (gradient as Tensor).mul(context.saved[1]);
            },
          });
          const loss = greedy(x).sum();
          const before = heldTensors();
          loss.backward();
          expect(during).toBeGreaterThan(before + 10);
          expect(heldTensors()).toBe(before);
        }),
      ),
    ).toBe(0);
  });

  it("leaves nothing behind outside of scopes either", () => {
    const x = leaf([1, 2]);
    const loss = square(x).sum();
    const before = heldTensors();
    loss.backward(null, { retainGraph: true });
    const failing = torch.defineFunction({
      forward: (_, t: Tensor) => t.clone(),
      backward(): null {
        throw new Error("no");
      },
    });
    expect(heldTensors()).toBe(before);
    const bad = torch.scope(() => failing(x).sum());
    expect(heldTensors()).toBe(before + 1);
    expect(() => bad.backward()).toThrow("no");
    expect(heldTensors()).toBe(before + 1);
    for (const tensor of [x, loss, bad]) tensor.dispose();
  });

  it("keeps the backward's modes", () => {
    torch.scope(() => {
      const dtypes: string[] = [];
      const f = torch.defineFunction({
        forward: (_, x: Tensor) => x.clone(),
        backward(_, gradient) {
          dtypes.push((gradient as Tensor).matmul(gradient as Tensor).dtype);
          return gradient;
        },
      });
      const loss = () => f(leaf([[1]])).sum();
      loss().backward();
      torch.autocast({ device: "cpu" }, () => loss().backward());
      expect(dtypes).toEqual(["float32", "bfloat16"]);
    });
  });

  it("the memory of a graph that is never used goes with its tensors", () => {
    const ran = leftBehind(() =>
      torch.scope(() => {
        for (let i = 0; i < 100; i++) torch.scope(() => square(leaf([1, 2])));
      }),
    );
    expect(ran).toBe(0);
  });

  it("runs inside an operator of the dispatcher that runs a backward pass itself", () => {
    torch.scope(() => {
      const x = leaf([3]);
      const y = square(x);
      // On a machine with devices only backward() and grad() can serve their threads.
      torch.ops.aten._backward(y.sum(), [x]);
      expect(gradOf(x).item()).toBe(6);
    });
  });
});
