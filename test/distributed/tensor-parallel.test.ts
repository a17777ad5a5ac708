import { beforeAll, describe, expect, it } from "vitest";
import { composeSlices } from "../../lib/distributed/tensor-parallel/index.js";
import type { TensorAndDataResult } from "./children/tensor-and-data.js";
import type { Found, TensorParallelResult } from "./children/tensor-parallel.js";
import type { TensorParallelPartsResult } from "./children/tensor-parallel-parts.js";
import { runRanks } from "./support.js";

describe("a decoder on two ranks", () => {
  let ranks: TensorParallelResult[];
  beforeAll(async () => {
    ranks = await runRanks<TensorParallelResult>("tensor-parallel.ts");
  });

  const cases = [
    // Collectives: an all-reduce of the embedding, of attention and MLP in two layers (again when recomputed), of their
    // inputs' gradients, of the hidden states' gradient, and two per chunk of 7 rows of the head.
    { name: "block diffusion", calls: 1 + 4 + 4 + 1 + 2 * 3 },
    { name: "block diffusion, checkpointed, tied, odd vocabulary", calls: 1 + 8 + 4 + 1 + 2 * 3 },
    { name: "autoregressive", calls: 1 + 4 + 4 + 1 + 2 * 4 },
    { name: "autoregressive, checkpointed, biases on q, k and v", calls: 1 + 8 + 4 + 1 + 2 * 4 },
    { name: "block diffusion, biases on q, k, v and o, tied", calls: 1 + 4 + 4 + 1 + 2 * 3 },
    // Weight and bias of two projections in two layers are gathered for the head that both ranks hold.
    { name: "one key/value head for two ranks", calls: 1 + 4 + 4 + 1 + 2 * 3 + 8 },
    // Gradients of two norms in two layers are summed.
    { name: "norms of q and k", calls: 1 + 4 + 4 + 1 + 2 * 3 + 4 },
    { name: "norms of q and k, checkpointed", calls: 1 + 8 + 4 + 1 + 2 * 4 + 4 },
    { name: "norms of q and k, one key/value head for two ranks", calls: 1 + 4 + 4 + 1 + 2 * 3 + 4 + 4 },
  ] as const;

  describe.each(cases)("$name", ({ name, calls }) => {
    const of = (dtype: "float32" | "float64") => ranks.map((rank) => rank.cases[name][dtype]);

    it("has the loss and the gradients of one process", () => {
      for (const found of of("float32")) {
        expect(found.lossError).toBeLessThan(1e-6);
        expect(found.gradientError.whole).toBeLessThan(1e-6);
      }
      for (const found of of("float64")) {
        expect(found.lossError).toBeLessThan(1e-13);
        expect(found.gradientError.worst).toBeLessThan(1e-12);
      }
    });

    it("has the same gradients of whole parameters on all ranks, bit for bit", () => {
      for (const dtype of ["float32", "float64"] as const) {
        const [first, second] = of(dtype);
        expect(first.sharedGradients.length).toBeGreaterThanOrEqual(5 * 32);
        expect(second.sharedGradients).toEqual(first.sharedGradients);
      }
    });

    it("frees the parts of other ranks, and leaves nothing behind", () => {
      for (const found of of("float32")) {
        const gone = found.elements.reduce((sum, [whole, here]) => sum + whole - here, 0);
        const all = found.elements.reduce((sum, [whole]) => sum + whole, 0);
        expect(found.bytesFreed).toBe(4 * gone);
        expect(gone / all).toBeGreaterThan(0.46);
        expect(found.tensorsLeft).toBe(0);
      }
    });

    it("communicates no more than it must", () => {
      expect(of("float32").map((found) => found.calls)).toEqual([calls, calls]);
    });
  });

  it("says how many ranks hold a part, of which one owns it", () => {
    const [first, second] = ranks.map((rank) => rank.cases["one key/value head for two ranks"].float32);
    const shared = Object.keys(first.copies).filter((name) => /norm|kProj|vProj/.test(name));
    for (const [name, copies] of Object.entries(first.copies))
      expect([name, copies]).toEqual([name, shared.includes(name) ? 2 : 1]);
    expect(first.owned).toEqual(Object.keys(first.copies));
    expect(second.owned).toEqual(first.owned.filter((name) => !shared.includes(name)));
  });

  it("is as close to float32 under bfloat16 autocast as one process is", () => {
    for (const { autocast } of ranks) {
      expect(autocast.split.lossError).toBeLessThan(5e-3);
      expect(autocast.split.gradientError.whole).toBeLessThan(1.5 * autocast.alone.whole);
      expect(autocast.split.gradientError.whole).toBeGreaterThan(1e-4); // it was in bfloat16
    }
    const [first, second]: Found[] = ranks.map(({ autocast }) => autocast.split);
    expect(second.sharedGradients).toEqual(first.sharedGradients);
  });

  it.each(["llama", "qwen3"] as const)("gives logits and samples tokens as one process does: %s", (architecture) => {
    for (const generation of ranks.map((rank) => rank.generation[architecture])) {
      expect(generation.shape).toEqual([1, 12, 51]);
      expect(generation.error).toBeLessThan(1e-5);
      expect(generation.ids).toHaveLength(9);
      expect(generation.ids).toEqual(generation.expectedIds);
      expect(generation.headWeight).toBe(
        "DISTRIBUTED_STATE: the head is split over ranks: use model.crossEntropy or model.logits",
      );
    }
  });
});

describe("a decoder on four ranks", () => {
  let ranks: TensorAndDataResult[];
  beforeAll(async () => {
    ranks = await runRanks<TensorAndDataResult>("tensor-and-data.ts", { size: 4 });
  });

  it.each([
    ["shard", "two of which shard the parts of the other two", 0.27],
    ["replicate", "two of which replicate the other two", 0.52],
    ["four", "two of which share each key/value head", 0.32],
    ["fourNorms", "two of which share each key/value head, with norms of q and k", 0.32],
  ] as const)("%s: %s: loss, gradients, slices", (kind, _, share) => {
    for (const laid of ranks.map((rank) => rank[kind])) {
      expect(laid.lossError).toBeLessThan(1e-6);
      expect(laid.gradientError.whole).toBeLessThan(1e-6);
      expect(laid.normError).toBeLessThan(1e-6);
      // Replicas own the same: `local()` of one of them says so, and every element has one owner.
      expect(laid.cover).toEqual([]);
      expect(laid.elements / laid.allElements).toBeLessThan(share);
    }
  });
});

describe("the parts of tensor parallelism", () => {
  let ranks: TensorParallelPartsResult[];
  beforeAll(async () => {
    ranks = await runRanks<TensorParallelPartsResult>("tensor-parallel-parts.ts");
  });

  it("collectives have values and gradients, and leave their input as it is", () => {
    const [first, second] = ranks.map((rank) => rank.collectives);
    const own = { 0: [1, 2, 3, 4], 1: [10, 20, 30, 40] };
    for (const [rank, found] of [first, second].entries()) {
      const given = own[rank as 0 | 1];
      expect(found.copy).toEqual({ shape: [2, 2], value: given, gradient: [2, 4, 6, 8], given });
      expect(found.reduce).toEqual({ shape: [2, 2], value: [11, 22, 33, 44], gradient: [1, 2, 3, 4], given });
      expect(found.reduceTransposed.value).toEqual([11, 33, 22, 44]);
      expect(found.reduceTransposed.gradient).toEqual([1, 3, 2, 4]);
      expect(found.gather.shape).toEqual([2, 4]);
      expect(found.gather.value).toEqual([1, 2, 10, 20, 3, 4, 30, 40]);
      expect(found.gatherUneven.value).toEqual([1, 2, 3, 4, 10, 20]);
      expect(found.scatter.gradient).toEqual([1, 2, 1, 3, 4, 2]);
    }
    expect([first.gather.gradient, second.gather.gradient]).toEqual([
      [1, 2, 5, 6],
      [3, 4, 7, 8],
    ]);
    expect([first.gatherUneven.gradient, second.gatherUneven.gradient]).toEqual([
      [1, 2, 3, 4],
      [5, 6],
    ]);
    expect([first.scatter.value, second.scatter.value]).toEqual([
      [1, 2, 4, 5],
      [30, 60],
    ]);
  });

  it("parallelizeModule splits any module by a plan, tied parameters together", () => {
    for (const [rank, { anyModule }] of ranks.entries()) {
      expect(anyModule.outputError).toBeLessThan(1e-6);
      expect(anyModule.gradientError).toBeLessThan(2e-6);
      expect(anyModule.isTied).toBe(true);
      expect(anyModule.shapes).toMatchObject({
        "norm.weight": [6],
        "up.0.weight": [4, 6],
        "up.1.bias": [4],
        "down.weight": [6, 4],
        "down.bias": [6],
        "table.weight": [rank === 0 ? 4 : 3, 6],
        "head.bias": [rank === 0 ? 4 : 3],
      });
      expect(anyModule.kinds).toMatchObject({
        "norm.weight": "replicated",
        "down.bias": "replicated",
        "up.0.weight": "sharded",
      });
    }
  });

  it("says what does not fit, on all ranks, and changes nothing then", () => {
    for (const { mistakes } of ranks) {
      const argument = (message: string) => `DISTRIBUTED_ARGUMENT: parallelizeModule: ${message} (unchanged)`;
      expect(mistakes).toMatchObject({
        noSuchPath: argument("the plan's path 'up.7' matches no module"),
        indivisible: argument("'head': 7 features are not divisible by 2 ranks"),
        noLinear: argument("'norm' is a RMSNorm, but rowwise() needs a Linear"),
        noNorm: argument("'down' is a Linear, but partialGradient() needs an RMSNorm"),
        unnamed: argument("ranks compute parts of '', but the plan has no style for 'norm' in it: add one"),
        nested: argument("'down' is inside '', which already shares its input"),
        twoWays: argument("a parameter of 'head' is split in two ways"),
        heads: expect.stringMatching(/numHeads 3 is not divisible by 2 tensor-parallel ranks/),
        keyValueHeads: expect.stringMatching(/numKeyValueHeads 3 and 2 tensor-parallel ranks do not divide each other/),
        intermediateSize: expect.stringMatching(/intermediateSize 45 is not divisible by 2/),
        idTooLarge: expect.stringMatching(/index out of range/),
        idNegative: expect.stringMatching(/index out of range/),
      });
    }
  });

  it.each([
    ["one chunk", 1e-6],
    ["odd vocabulary, chunks that do not divide", 1e-6],
    ["a row at a time", 1e-6],
    ["no rows", 0],
    ["float64", 1e-13],
    ["bfloat16", 2e-2],
    ["autocast", 2e-2],
    ["frozen head", 1e-6],
    ["frozen hidden states", 1e-6],
    ["logits that overflow exp", 1e-6],
  ] as const)("vocabParallelCrossEntropy is linearCrossEntropy: %s", (name, tolerance) => {
    const [first, second] = ranks.map((rank) => rank.crossEntropy[name]);
    for (const found of [first, second]) {
      expect(found.error).toBeLessThanOrEqual(tolerance);
      expect(found).toMatchObject({ repeats: true, nllNeedsGrad: false });
    }
    expect(second.shared).toEqual(first.shared);
  });

  it("vocabParallelCrossEntropy names mistakes, on all ranks", () => {
    for (const { badTargets } of ranks) {
      expect(badTargets).toMatchObject({
        tooLarge: expect.stringMatching(/index \d+ is out of bounds/),
        negative: expect.stringMatching(/index -\d+ is out of bounds/),
        dtype: expect.stringMatching(
          /DISTRIBUTED_ARGUMENT: .*targets must be an int64 tensor of shape \[3\], got int32 \[3\]/,
        ),
        chunkSize: expect.stringMatching(/chunkSize must be at least 1, got 0/),
        rowWeights: expect.stringMatching(/rowWeights must have shape \[3\]/),
        needsGrad: "false",
      });
    }
  });
});

describe("composeSlices", () => {
  const outer = { shape: [10, 6], offset: [5, 0], size: [5, 6] };

  it("gives a slice of a slice as one of the whole", () => {
    const inner = { shape: [5, 6], offset: [3, 0], size: [2, 6] };
    expect(composeSlices(outer, inner)).toEqual({ shape: [10, 6], offset: [8, 0], size: [2, 6] });
    const across = { shape: [10, 6], offset: [0, 3], size: [10, 3] };
    expect(composeSlices(across, { shape: [10, 3], offset: [4, 0], size: [3, 3] })).toEqual({
      shape: [10, 6],
      offset: [4, 3],
      size: [3, 3],
    });
    const empty = { shape: [5, 6], offset: [5, 0], size: [0, 6] };
    expect(composeSlices(outer, empty)).toEqual({ shape: [10, 6], offset: [10, 0], size: [0, 6] });
  });

  it("refuses a slice of something else", () => {
    expect(() => composeSlices(outer, { shape: [10, 6], offset: [0, 0], size: [10, 6] })).toThrow(
      /shape \[10,6\] does not match a slice of size \[5,6\]/,
    );
  });
});
