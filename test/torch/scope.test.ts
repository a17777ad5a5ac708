// Who frees what, and when.
import { setImmediate as turn } from "node:timers/promises";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import * as torch from "../../lib/torch/index.js";
import { native } from "../../lib/torch/native.js";
import { heldTensors } from "./held-tensors.js";
import { leftBehind, thrownBy, torchError } from "./support.js";

const made = (value = 1) => torch.tensor([value]);

describe("scope(fn)", () => {
  it("frees what it does not return", () => {
    let inner: torch.Tensor | undefined;
    expect(
      leftBehind(() =>
        torch.scope(() => {
          inner = made();
          inner.add(1).mul(2);
        }),
      ),
    ).toBe(0);
    expect(inner?.disposed).toBe(true);
  });

  it("returns what fn returns, moved to the scope around it", () => {
    torch.scope(() => {
      let middle: torch.Tensor | undefined;
      const kept = torch.scope(() => {
        middle = torch.scope(() => made(5));
        expect(middle.disposed).toBe(false);
        return torch.scope(() => made(7));
      });
      expect(middle?.disposed).toBe(true);
      expect(kept.tolist()).toEqual([7]);
    });
  });

  it("finds tensors inside arrays, objects, Maps and Sets", () => {
    torch.scope(() => {
      const result = torch.scope(() => ({
        list: [made(1), [made(2)]],
        map: new Map([["a", made(3)]]),
        set: new Set([made(4)]),
        bare: Object.assign(Object.create(null), { t: made(5) }) as { t: torch.Tensor },
        text: "kept",
        none: null,
      }));
      const all = [
        result.list[0],
        (result.list[1] as torch.Tensor[])[0],
        result.map.get("a"),
        [...result.set][0],
        result.bare.t,
      ];
      expect(all.map((tensor) => (tensor as torch.Tensor).item())).toEqual([1, 2, 3, 4, 5]);
      expect(result.text).toBe("kept");
    });
  });

  it("copes with results that contain themselves", () => {
    torch.scope(() => {
      const result = torch.scope(() => {
        const loop: { self?: unknown; t: torch.Tensor } = { t: made() };
        loop.self = loop;
        return loop;
      });
      expect(result.t.disposed).toBe(false);
    });
  });

  it("does not take a tensor from another scope", () => {
    torch.scope(() => {
      const outer = made();
      const same = torch.scope(() => outer);
      expect(same).toBe(outer);
      torch.scope(() => {
        expect(torch.scope(() => outer).disposed).toBe(false);
      });
      expect(outer.disposed).toBe(false);
    });
  });

  it("frees everything when fn throws, and passes the exception on", () => {
    const problem = new Error("mine");
    let inner: torch.Tensor | undefined;
    expect(
      leftBehind(() => {
        const thrown = thrownBy(() =>
          torch.scope(() => {
            inner = made();
            torch.scope(() => {
              made();
              throw problem;
            });
          }),
        );
        expect(thrown).toBe(problem);
      }),
    ).toBe(0);
    expect(inner?.disposed).toBe(true);
  });

  it("an operator that throws leaves nothing behind", () => {
    expect(
      leftBehind(() =>
        torch.scope(() => {
          const x = torch.zeros([2, 3]);
          expect(() => x.add(1).matmul(x.mul(2))).toThrowError(torchError("TORCH_ERROR"));
          expect(() => torch.cat([x, x.t()], 0)).toThrowError(torchError("TORCH_ERROR"));
          expect(() => x.split(-1)).toThrowError(torchError("TORCH_ERROR"));
        }),
      ),
    ).toBe(0);
  });

  it("many more tensors than fit into one native call", () => {
    expect(
      leftBehind(() =>
        torch.scope(() => {
          const list = torch.scope(() => Array.from({ length: 10_000 }, (_, i) => made(i)));
          expect(list.every((tensor) => !tensor.disposed)).toBe(true);
          expect(list[9_999].item()).toBe(9_999);
        }),
      ),
    ).toBe(0);
  });

  it("refuses a function that returns a promise but is not async", () => {
    expect(() => torch.scope(() => Promise.resolve(1))).toThrowError(torchError("TORCH_SCOPE", /scope\(async \(\) =>/));
    expect(() => torch.scope(() => Promise.reject(new Error("unheard")))).toThrowError(torchError("TORCH_SCOPE"));
  });

  it("any tree of scopes, keeps, disposals and exceptions balances", () => {
    interface Node {
      make: number;
      keep: boolean;
      dispose: boolean;
      throws: boolean;
      returns: boolean;
      children: Node[];
    }
    const { tree } = fc.letrec<{ tree: Node }>((tie) => ({
      tree: fc.record({
        make: fc.nat(4),
        keep: fc.boolean(),
        dispose: fc.boolean(),
        throws: fc.boolean(),
        returns: fc.boolean(),
        children: fc.oneof(
          { depthSize: "small", withCrossShrink: true },
          fc.constant<Node[]>([]),
          fc.array(tie("tree"), { maxLength: 3 }),
        ),
      }),
    }));
    fc.assert(
      fc.property(tree, (root) => {
        const kept: torch.Tensor[] = [];
        const run = (node: Node): torch.Tensor[] =>
          torch.scope(() => {
            const mine = Array.from({ length: node.make }, (_, i) => made(i));
            if (node.keep && mine.length > 0) kept.push(torch.keep(mine[0]));
            if (node.dispose) mine.at(-1)?.dispose();
            for (const child of node.children) {
              try {
                for (const tensor of run(child)) if (!tensor.disposed) tensor.add(1);
              } catch (error) {
                expect((error as Error).message).toBe("planned");
              }
            }
            if (node.throws) throw new Error("planned");
            return node.returns ? mine : [];
          });
        const left = leftBehind(() => {
          try {
            torch.scope(() => void run(root));
          } catch (error) {
            expect((error as Error).message).toBe("planned");
          }
          for (const tensor of kept) tensor.dispose();
        });
        expect(left).toBe(0);
      }),
    );
  });
});

describe("scope(async fn)", () => {
  it("frees at the end what fn does not return", async () => {
    const before = heldTensors();
    const seen: torch.Tensor[] = [];
    const result = await torch.scope(async () => {
      seen.push(made(1));
      await turn();
      seen.push(made(2));
      const kept = made(3);
      await turn();
      expect(seen.every((tensor) => !tensor.disposed)).toBe(true);
      return { kept };
    });
    expect(seen.every((tensor) => tensor.disposed)).toBe(true);
    expect(result.kept.item()).toBe(3);
    result.kept.dispose();
    expect(heldTensors()).toBe(before);
  });

  it("frees everything when fn rejects", async () => {
    const before = heldTensors();
    const problem = new Error("mine");
    const failing = torch.scope(async () => {
      made();
      await turn();
      made();
      throw problem;
    });
    await expect(failing).rejects.toBe(problem);
    const early = torch.scope(async () => {
      made();
      throw problem;
    });
    await expect(early).rejects.toBe(problem);
    expect(heldTensors()).toBe(before);
  });

  it("tasks that interleave keep their tensors apart", async () => {
    const before = heldTensors();
    const task = (name: number) =>
      torch.scope(async () => {
        const mine: torch.Tensor[] = [];
        for (let i = 0; i < 20; i++) {
          mine.push(made(name));
          torch.scope(() => made(name).add(1));
          await (i % 3 === 0 ? turn() : Promise.resolve());
          for (const tensor of mine) expect(tensor.item()).toBe(name);
        }
        return mine[7];
      });
    const results = await Promise.all([task(1), task(2), task(3)]);
    expect(results.map((tensor) => tensor.item())).toEqual([1, 2, 3]);
    expect(heldTensors()).toBe(before + 3);
    for (const tensor of results) tensor.dispose();
  });

  it("a task that ends early frees nothing of a longer one", async () => {
    await torch.scope(async () => {
      const outer = made(1);
      const short = torch.scope(async () => {
        made(2);
        await turn();
      });
      const long = torch.scope(async () => {
        const mine = made(3);
        await short;
        await turn();
        return mine.item() + outer.item();
      });
      await short;
      const after = made(4);
      expect(await long).toBe(4);
      expect([outer.disposed, after.disposed]).toEqual([false, false]);
    });
  });

  it("results move to the task's scope, not to whatever runs when they arrive", async () => {
    let leaked: torch.Tensor | undefined;
    await torch.scope(async () => {
      const result = await torch.scope(async () => {
        await turn();
        return made(5);
      });
      leaked = result;
      torch.scope(() => made());
      expect(result.disposed).toBe(false);
    });
    expect(leaked?.disposed).toBe(true);
  });

  it("synchronous scopes inside work as ever", async () => {
    await torch.scope(async () => {
      await turn();
      const kept = torch.scope(() => {
        made();
        return made(9);
      });
      await turn();
      expect(kept.item()).toBe(9);
    });
  });
});

describe("openScope()", () => {
  it("ends with its block", () => {
    let inner: torch.Tensor | undefined;
    let kept: torch.Tensor | undefined;
    expect(
      leftBehind(() => {
        {
          using _ = torch.openScope();
          inner = made();
          kept = torch.keep(made());
          {
            using _ = torch.openScope();
            made();
          }
          expect(inner.disposed).toBe(false);
          inner.add(1);
        }
      }),
    ).toBe(1);
    expect(inner?.disposed).toBe(true);
    kept?.dispose();
  });

  it("inside scope(fn) gives the outer one back", () => {
    torch.scope(() => {
      const before = made();
      {
        using _ = torch.openScope();
        made();
      }
      const after = made();
      torch.scope(() => made());
      expect([before.disposed, after.disposed]).toEqual([false, false]);
    });
  });

  it("inside an async scope does not become everybody's scope", async () => {
    const strangers: torch.Tensor[] = [];
    const stranger = (async () => {
      for (let i = 0; i < 6; i++) {
        await turn();
        strangers.push(made(i));
      }
    })();
    await torch.scope(async () => {
      for (let i = 0; i < 3; i++) {
        await turn();
        using _ = torch.openScope();
        made();
      }
      await turn();
    });
    await stranger;
    expect(strangers.map((tensor) => tensor.disposed)).toEqual(new Array(6).fill(false));
    for (const tensor of strangers) tensor.dispose();
  });

  it("across an await is TORCH_SCOPE, and frees nobody's tensors", async () => {
    const others: torch.Tensor[] = [];
    const other = async () => {
      for (let i = 0; i < 8; i++) {
        others.push(made(i));
        await Promise.resolve();
      }
    };
    let mine: torch.Tensor | undefined;
    const wrong = async () => {
      using _ = torch.openScope();
      mine = made(1);
      await Promise.resolve();
      others.push(made(100));
      await turn();
      others.push(made(101));
    };
    const [first, result, last] = await Promise.allSettled([other(), wrong(), other()]);
    expect([first.status, last.status]).toEqual(["fulfilled", "fulfilled"]);
    expect(result).toEqual({ status: "rejected", reason: torchError("TORCH_SCOPE", /held across an await/) });
    expect(others.every((tensor) => !tensor.disposed)).toBe(true);
    expect(mine?.disposed).toBe(false);
    // The next scopes are sound.
    expect(leftBehind(() => torch.scope(() => void made()))).toBe(0);
    for (const tensor of [...others, mine as torch.Tensor]) tensor.dispose();
  });

  it("two of them across awaits leave no scope open", async () => {
    const wrong = async () => {
      using _a = torch.openScope();
      using _b = torch.openScope();
      await Promise.resolve();
      await turn();
    };
    await Promise.allSettled([wrong(), wrong()]);
    const stray = made();
    await turn();
    expect(stray.disposed).toBe(false);
    stray.dispose();
  });
});

describe("keep", () => {
  it("takes tensors out of every scope, also inside structures", () => {
    const kept = torch.scope(() => torch.scope(() => torch.keep({ weights: [made(1), made(2)] })));
    torch.scope(() => {
      expect(kept.weights.map((tensor) => tensor.item())).toEqual([1, 2]);
      expect(torch.keep(kept)).toBe(kept);
      torch.scope(() => kept.weights[0]);
    });
    expect(kept.weights.map((tensor) => tensor.disposed)).toEqual([false, false]);
    expect(
      leftBehind(() => {
        for (const tensor of kept.weights) tensor.dispose();
      }),
    ).toBe(-2);
  });

  it("has nothing to do with a disposed tensor or a copy of one", () => {
    const gone = made();
    gone.dispose();
    torch.keep(gone);
    const living = made(3);
    const copy = structuredClone({ handle: living.handle, owner: null });
    torch.keep(copy);
    torch.scope(() => copy);
    expect(living.item()).toBe(3);
    living.dispose();
  });
});

describe("dispose", () => {
  it("frees now, inside a scope too, and twice is once", () => {
    torch.scope(() => {
      const x = made();
      const before = heldTensors();
      x.dispose();
      x.dispose();
      x[Symbol.dispose]();
      expect(heldTensors()).toBe(before - 1);
      expect(x.disposed).toBe(true);
    });
    const y = made();
    y.dispose();
    y.dispose();
    {
      using z = made();
      expect(z.disposed).toBe(false);
    }
  });

  it("views keep the memory", () => {
    torch.scope(() => {
      const base = torch.arange(4);
      const view = base.index(torch.slice(1, 3));
      base.dispose();
      expect(view.tolist()).toEqual([1, 2]);
    });
  });

  it("a graph keeps what it needs", () => {
    torch.scope(() => {
      const x = torch.tensor([3], { requiresGrad: true });
      const loss = torch.scope(() => {
        const squared = x.mul(x);
        const sum = squared.sum();
        squared.dispose();
        return sum;
      });
      loss.backward();
      expect(x.grad?.item()).toBe(6);
    });
  });

  it("use afterwards names the operator and what was wrong", () => {
    torch.scope(() => {
      const gone = made();
      const x = made();
      gone.dispose();
      const uses: [string, () => unknown][] = [
        ["add", () => gone.add(x)],
        ["add", () => x.add(gone)],
        ["relu", () => gone.relu()],
        ["mul_", () => x.mul_(gone)],
        ["cat", () => torch.cat([x, gone], 0)],
        ["sum", () => gone.sum([0], true)],
        ["where", () => torch.where(gone, x, x)],
        ["linear", () => torch.linear(x, x.unsqueeze(0), gone)],
        ["clamp", () => torch.clamp(x, gone)],
        ["shape", () => gone.shape],
        ["strides", () => gone.strides],
        ["ndim", () => gone.ndim],
        ["size", () => gone.size(0)],
        ["numel", () => gone.numel()],
        ["dtype", () => gone.dtype],
        ["device", () => gone.device],
        ["item", () => gone.item()],
        ["toTypedArray", () => gone.toTypedArray()],
        ["tolist", () => gone.tolist()],
        ["requiresGrad", () => gone.requiresGrad],
        ["requiresGrad_", () => gone.requiresGrad_()],
        ["grad", () => gone.grad],
        ["backward", () => gone.backward()],
        ["index", () => gone.index(0)],
        ["to", () => gone.to("float64")],
        ["isContiguous", () => gone.isContiguous()],
      ];
      for (const [operator, use] of uses) {
        const error = thrownBy(use) as torch.TorchError;
        expect(error, operator).toEqual(torchError("TORCH_DISPOSED", /disposed/));
        // Properties that others are made of speak for themselves: tolist asks for the shape first.
        if (operator !== "tolist" && operator !== "toTypedArray" && operator !== "to")
          expect(error.operator, error.message).toBe(operator);
        expect(error.message).toMatch(/^\w+: .*disposed/);
      }
      expect(thrownBy(() => gone.add(x))).toEqual(
        torchError(
          "TORCH_DISPOSED",
          /^add: argument 'self' is a tensor that was disposed\n {2}called with Tensor\(disposed\), Tensor\(\[1\]/,
        ),
      );
    });
  });

  it("a freed handle is never another tensor's, however often its slot is used again", () => {
    const stale = new Set<number>();
    let slot = -1;
    for (let i = 0; i < 5000; i++) {
      using x = made(i);
      const { handle } = x;
      // The free list gives the same slot at once.
      if (slot < 0) slot = handle % 2 ** 24;
      expect(handle % 2 ** 24).toBe(slot);
      expect(stale.has(handle)).toBe(false);
      stale.add(handle);
    }
    using fresh = made(7);
    for (const handle of stale)
      expect(thrownBy(() => native.numel(handle))).toEqual(expect.objectContaining({ code: "TORCH_DISPOSED" }));
    for (const handle of [...stale].slice(0, 100)) expect(native.free(handle)).toBe(false);
    expect(fresh.item()).toBe(7);
  });

  it("numbers that never were handles are no tensors", () => {
    for (const handle of [0, -1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 24 - 1, 2 ** 53, 1e300])
      expect(
        thrownBy(() => native.numel(handle)),
        String(handle),
      ).toEqual(expect.objectContaining({ code: "TORCH_DISPOSED" }));
  });
});
