import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { AdamW, parameter } from "../../lib/nn/index.js";
import * as torch from "../../lib/torch/index.js";
import type { Compared, DataParallelResult } from "./children/data-parallel.js";
import { runRanks } from "./support.js";

const runs = new Map<number, Promise<DataParallelResult[]>>();
/** What so many ranks found; each number of them runs once. */
function ranksOf(size: number): Promise<DataParallelResult[]> {
  const run = runs.get(size) ?? runRanks<DataParallelResult>("data-parallel.ts", { size });
  runs.set(size, run);
  return run;
}

function expectEqual({ gradients, weights, outputs, largest }: Compared): void {
  // Float64: nothing but the order of sums.
  expect(gradients).toBeLessThanOrEqual(1e-12 * Math.max(1, largest));
  expect(weights).toBeLessThanOrEqual(1e-12);
  expect(outputs).toBeLessThanOrEqual(1e-12);
}

describe.each([1, 2, 3])("two steps of %i ranks are those of one process", (size) => {
  let ranks: DataParallelResult[];
  beforeAll(async () => {
    ranks = await ranksOf(size);
  });

  it.each(["sharded", "replicated"] as const)("%s", (kind) => {
    for (const [rank, result] of ranks.entries()) {
      const compared = Object.entries(result[kind]) as [keyof DataParallelResult["sharded"], Compared][];
      expect(compared).toHaveLength(18);
      for (const [name, one] of compared) {
        expect(() => expectEqual(one), `${name}, rank ${rank}`).not.toThrow();
        // A comparison of nothing with nothing is none.
        if (name !== "no loss anywhere") expect(ranks.some((other) => other[kind][name].largest > 0)).toBe(true);
        expect(one.owned, name).toBe(kind === "sharded" || rank === 0);
      }
    }
  });

  it("sharded in float32 and gathered in bfloat16: those of a bfloat16 model, summed in float32", () => {
    for (const { rounded } of ranks) {
      expect(rounded.gradients).toBeLessThanOrEqual(1e-6 * rounded.largest);
      expect(new Set(rounded.dtypes)).toEqual(new Set(["float32"]));
    }
  });

  it("replicated in bfloat16: summed in float32, rounded once", () => {
    for (const { replicated16 } of ranks) {
      expect(replicated16.differing).toBe(0);
      expect(new Set(replicated16.dtypes)).toEqual(new Set(["bfloat16"]));
    }
  });

  it("and leave nothing behind", () => {
    for (const { leaked } of ranks) expect(leaked).toBe(0);
  });
});

describe("two replicas of two shards", () => {
  it("are one process, too, and the first replica owns the shards", async () => {
    const ranks = await ranksOf(4);
    for (const [rank, { hybrid }] of ranks.entries()) {
      const compared = Object.entries(hybrid ?? {});
      expect(compared).toHaveLength(18);
      for (const [name, one] of compared) {
        expect(() => expectEqual(one), `${name}, rank ${rank}`).not.toThrow();
        expect(one.owned).toBe(rank < 2);
      }
    }
  });
});

describe("backward passes on another thread, as with GPUs", () => {
  it("give the same", async () => {
    for (const { served } of await ranksOf(2)) {
      const compared = Object.entries(served);
      expect(compared).toHaveLength(18);
      for (const [name, one] of compared) expect(() => expectEqual(one), name).not.toThrow();
    }
  });
});

describe("what cannot be", () => {
  it("is refused with the model as it was", async () => {
    for (const { mistakes } of await ranksOf(2)) {
      expect(mistakes).toEqual({
        scalar: expect.stringMatching(
          /^DISTRIBUTED_ARGUMENT: 'blocks\.2\.biases\.0' is a scalar and cannot be sharded/,
        ),
        scalarReplicated: "none",
        mixed: expect.stringMatching(/^DISTRIBUTED_ARGUMENT: sharded parameters .* float32 and float64$/),
        mixedReplicated: "none",
        stranger: expect.stringMatching(/^DISTRIBUTED_ARGUMENT: .*segment 0 is not part of the model/),
        twice: expect.stringMatching(/^DISTRIBUTED_ARGUMENT: .*segment 1 is the same as segment 0/),
      });
    }
  });

  it("a replicated model is whole again when it is taken out; a sharded one has this rank's rows", async () => {
    const ranks = await ranksOf(2);
    for (const { afterwards } of ranks) {
      expect(afterwards.replicated).toBe(0);
      expect(afterwards.sharded).toMatch(/^TORCH_/);
    }
    const rows = ranks.map(({ afterwards }) => afterwards.rows);
    const block = [5, 2, 1, 5];
    const whole = [3, ...block, ...block, ...block, 1, 2];
    expect(rows[0].map((count, i) => count + rows[1][i])).toEqual(whole);
  });
});

describe("bytes of a rank", () => {
  it.each([1, 2, 4])("fall as 1 / %i, up to rows that make parts equal", async (size) => {
    const ranks = await ranksOf(size);
    let total = 0;
    for (const { bytes } of ranks) {
      const { width, layers, own, between, withGradients, peak } = bytes;
      const rows = (count: number) => Math.ceil(count / size);
      const unit = rows(width) * width + rows(width + 1);
      const root = rows(3) * width;
      const shard = layers * unit + root;
      // Shards are padded; AdamW's two moments are not, and it has one counter of steps.
      expect(between).toBe(4 * shard + 2 * 4 * own + 4);
      expect(withGradients).toBe(between + 4 * shard);
      total += withGradients;
      // Besides, at most two units are gathered, and the root; activations are a few rows.
      const gathered = 4 * size * (2 * unit + root);
      const activations = 48 * 1024;
      expect(peak).toBeGreaterThan(between);
      expect(peak).toBeLessThan(withGradients + gathered + activations);
    }
    // Parameters, gradients and two moments in float32, once over all ranks.
    const { width, layers } = ranks[0].bytes;
    const whole = 4 * 4 * (layers * (width * width + width + 1) + 3 * width);
    expect(total).toBeGreaterThan(whole);
    expect(total).toBeLessThan(1.02 * whole);
  });
});

describe("AdamW whose state is on the host", () => {
  const shapes = [[3, 4], [5], [1, 1]];
  const weights = (dtype: torch.DType) =>
    shapes.map((shape, i): [string, torch.Tensor] => {
      const generator = new torch.Generator({ seed: i });
      return [`w${i}`, parameter(torch.scope(() => torch.randn(shape, { generator }).to(dtype)))];
    });
  const gradients = (list: [string, torch.Tensor][], seed: number) => {
    const generator = new torch.Generator({ seed });
    for (const [, tensor] of list) tensor.grad = torch.randn(tensor.shape, { generator }).to(tensor.dtype);
  };
  const same = (a: [string, torch.Tensor][], b: [string, torch.Tensor][]) =>
    a.every(([, tensor], i) => tensor.equal(b[i][1]));

  it("is the usual one, bit for bit, and takes its state or gives it, at any step", () => {
    fc.assert(
      fc.property(
        fc.constantFrom<torch.DType>("float32", "bfloat16"),
        fc.boolean(),
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 0, max: 4 }),
        (dtype, fused, before, after) =>
          torch.scope(() => {
            const [plain, offloaded, taken, given] = [0, 1, 2, 3].map(() => weights(dtype));
            const make = (list: [string, torch.Tensor][], offload: boolean) => new AdamW(list, { offload, fused });
            const usual = make(plain, false);
            const host = make(offloaded, true);
            const step = (list: [string, torch.Tensor][], optimizer: AdamW, i: number) => {
              gradients(list, 100 + i);
              optimizer.step(1e-2);
            };
            for (let i = 0; i < before; i++) {
              step(plain, usual, i);
              step(offloaded, host, i);
            }
            expect(same(plain, offloaded)).toBe(true);
            expect(Object.keys(host.stateDict().tensors)).toEqual(Object.keys(usual.stateDict().tensors));
            // Weights come first, as from a checkpoint, then the optimiser and its state.
            for (const list of [taken, given]) {
              torch.noGrad(() => {
                for (const [i, [, tensor]] of list.entries()) tensor.copy_(plain[i][1]);
              });
            }
            const taking = make(taken, true);
            taking.loadStateDict(usual.stateDict());
            const giving = make(given, false);
            giving.loadStateDict(host.stateDict());
            for (let i = before; i < before + after; i++) {
              for (const [list, optimizer] of [
                [plain, usual],
                [offloaded, host],
                [taken, taking],
                [given, giving],
              ] as const) {
                step(list, optimizer, i);
              }
            }
            for (const list of [offloaded, taken, given]) expect(same(plain, list)).toBe(true);
            for (const optimizer of [usual, host, taking, giving]) optimizer.dispose();
            for (const [, tensor] of [plain, offloaded, taken, given].flat()) tensor.dispose();
          }),
      ),
      { numRuns: 12 },
    );
    expect(torch.memory().tensors).toBe(0);
  });
});
