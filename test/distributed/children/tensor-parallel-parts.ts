import {
  copyToGroup,
  gatherFromGroup,
  reduceFromGroup,
  scatterToGroup,
} from "../../../lib/distributed/differentiable.js";
import type { ProcessGroup } from "../../../lib/distributed/index.js";
import {
  columnwise,
  type ParallelPlan,
  parallelizeModule,
  partialGradient,
  rowwise,
  sharedInput,
  vocabParallelCrossEntropy,
  vocabularyPart,
  vocabularywise,
} from "../../../lib/distributed/tensor-parallel/index.js";
import { causalPlan, type DecoderConfigInput } from "../../../lib/model/index.js";
import { Embedding, functional, Linear, Module, RMSNorm } from "../../../lib/nn/index.js";
import { tensorParallel } from "../../../lib/parallel/tensor.js";
import * as torch from "../../../lib/torch/index.js";
import { asRank } from "../rank.js";
import { decoder } from "./split-decoder.js";

type Tensor = torch.Tensor;

const values = (tensor: Tensor) => tensor.flatten().tolist() as number[];
const generator = new torch.Generator({ seed: 5 });
const normal = (shape: number[], dtype: torch.DType = "float32") => torch.randn(shape, { generator }).to({ dtype });

/** Value and gradient of x = [1 2; 3 4] (times 10 on rank 1) under the loss sum(w * f(x)), w = 1, 2, ... */
function collectives(group: ProcessGroup) {
  const run = (shape: number[], apply: (x: Tensor) => Tensor) =>
    torch.scope(() => {
      const count = shape.reduce((a, b) => a * b, 1);
      const x = torch
        .arange(1, count + 1)
        .to({ dtype: "float32" })
        .mul(group.rank === 0 ? 1 : 10)
        .view(shape);
      x.requiresGrad_();
      const y = apply(x);
      const weights = torch
        .arange(1, y.numel() + 1)
        .to({ dtype: "float32" })
        .view(y.shape);
      y.mul(weights).sum().backward();
      return {
        shape: y.shape,
        value: values(y.detach()),
        gradient: values(x.grad as Tensor),
        given: values(x.detach()),
      };
    });
  return {
    copy: run([2, 2], (x) => copyToGroup(x, group)),
    reduce: run([2, 2], (x) => reduceFromGroup(x, group)),
    reduceTransposed: run([2, 2], (x) => reduceFromGroup(x.t(), group)),
    gather: run([2, 2], (x) => gatherFromGroup(x, -1, group)),
    gatherUneven: run([group.rank === 0 ? 2 : 1, 2], (x) => gatherFromGroup(x, 0, group, 3)),
    scatter: run([2, 3], (x) => scatterToGroup(x, 1, group)),
  };
}

/** A module that is no decoder: projections with biases, two of them tied, an output all ranks hold. */
class Block extends Module {
  readonly norm = new RMSNorm(6);
  readonly up = [new Linear(6, 8), new Linear(6, 8)];
  readonly down = new Linear(8, 6);
  readonly table = new Embedding(7, 6);
  readonly head = new Linear(6, 7);

  constructor() {
    super();
    torch.manualSeed(3);
    for (const tensor of this.parameters()) torch.noGrad(() => tensor.copy_(normal(tensor.shape)));
    this.head.weight.dispose();
    this.head.weight = this.table.weight;
  }

  forward(ids: Tensor): Tensor {
    const x = this.norm.forward(this.table.forward(ids));
    const [a, b] = this.up.map((linear) => linear.forward(x));
    return this.head.forward(this.down.forward(a.mul(b.sigmoid())));
  }
}

const blockPlan = {
  "up.*": columnwise(),
  down: rowwise(),
  table: vocabularywise(),
  "h?ad": vocabularywise(),
};

function anyModule(group: ProcessGroup) {
  const seed = generator.getState();
  const whole = new Block();
  generator.setState(seed);
  const block = new Block();
  const placements = parallelizeModule(block, group, blockPlan);
  return torch.scope(() => {
    const ids = torch
      .tensor([
        [0, 3, 6],
        [4, 4, 1],
      ])
      .long();
    const outputs = [whole, block].map((module) => {
      const y = module.forward(ids);
      y.square().sum().backward();
      return y.detach();
    });
    const expected = new Map(whole.namedParameters());
    const errors = Array.from(block.namedParameters(), ([name, tensor]) => {
      const { slice } = placements.get(name) ?? {};
      let gradient = (expected.get(name) as Tensor).grad as Tensor;
      for (const [d, offset] of (slice?.offset ?? []).entries())
        gradient = gradient.narrow(d, offset, slice?.size[d] ?? 0);
      return (tensor.grad as Tensor).sub(gradient).norm().item() / gradient.norm().item();
    });
    return {
      outputError: outputs[0].sub(outputs[1]).norm().item() / outputs[0].norm().item(),
      gradientError: Math.max(...errors),
      isTied: block.head.weight === block.table.weight,
      shapes: Object.fromEntries(Array.from(block.namedParameters(), ([name, tensor]) => [name, tensor.shape])),
      kinds: Object.fromEntries([...placements].map(([name, { placement }]) => [name, placement])),
    };
  });
}

/** What a call throws, as "CODE: message". */
function thrown(run: () => unknown): string {
  try {
    torch.scope(run);
  } catch (error) {
    return `${(error as { code?: string }).code}: ${(error as Error).message}`;
  }
  return "nothing";
}

function mistakes(group: ProcessGroup) {
  const refused = (plan: ParallelPlan) => {
    const block = new Block();
    const before = block.parameters();
    const message = thrown(() => parallelizeModule(block, group, plan));
    const isUnchanged = block.parameters().every((tensor, i) => tensor === before[i] && !tensor.disposed);
    block.dispose();
    return `${message} ${isUnchanged ? "(unchanged)" : "(changed)"}`;
  };
  const refusedModel = (config: Partial<DecoderConfigInput>) => {
    const model = decoder(config);
    const message = thrown(() => tensorParallel(model, group));
    model.dispose();
    return message;
  };
  const split = decoder();
  tensorParallel(split, group);
  const badIds = (id: number) => {
    const ids = torch.tensor([[6, id, 7]]).long();
    return thrown(() => split.forward(ids, causalPlan(3)));
  };
  return {
    noSuchPath: refused({ ...blockPlan, "up.7": columnwise() }),
    indivisible: refused({ ...blockPlan, head: columnwise() }),
    noLinear: refused({ ...blockPlan, norm: rowwise() }),
    noNorm: refused({ ...blockPlan, down: partialGradient() }),
    unnamed: refused({ ...blockPlan, "": sharedInput() }),
    nested: refused({ ...blockPlan, "": sharedInput(), down: sharedInput() }),
    twoWays: refused({ table: vocabularywise(), head: rowwise() }),
    heads: refusedModel({ numHeads: 3, numKeyValueHeads: 3 }),
    keyValueHeads: refusedModel({ numHeads: 6, numKeyValueHeads: 3 }),
    intermediateSize: refusedModel({ intermediateSize: 45 }),
    idTooLarge: badIds(48),
    idNegative: badIds(-1),
  };
}

interface Problem {
  n: number;
  vocabSize: number;
  chunkSize: number;
  weighted?: boolean;
  dtype?: torch.DType;
  autocast?: boolean;
  factor?: number;
  scale?: number;
  frozen?: "hidden" | "weight";
}

/** The largest relative difference of loss, nll and gradients from those of linearCrossEntropy, and the dtypes. */
function crossEntropy(group: ProcessGroup, problem: Problem) {
  const {
    n,
    vocabSize,
    chunkSize,
    weighted,
    dtype = "float32",
    autocast = false,
    factor = 1,
    scale = 1,
    frozen,
  } = problem;
  return torch.scope(() => {
    const part = vocabularyPart(vocabSize, group);
    const rows = Math.min(Math.ceil(vocabSize / group.size), vocabSize - part.vocabStart);
    const [h, w] = [normal([n, 10], dtype).mul(scale), normal([vocabSize, 10], dtype)];
    const targets = torch.randint(0, vocabSize, [n], { generator });
    const rowWeights = weighted ? normal([n]).abs() : undefined;
    const runWith = (apply: (hidden: Tensor, weight: Tensor) => { loss: Tensor; nll: Tensor }, table: Tensor) => {
      const hidden = h.detach().requiresGrad_(frozen !== "hidden");
      const weight = table.clone().requiresGrad_(frozen !== "weight");
      const compute = () => apply(hidden, weight);
      const { loss, nll } = autocast ? torch.autocast({ device: "cpu" }, compute) : compute();
      const inputs = [hidden, weight].filter((tensor) => tensor.requiresGrad);
      const total = [loss.mul(factor)];
      const first = torch.grad(total, inputs, { retainGraph: true }) as Tensor[];
      const again = torch.grad(total, inputs) as Tensor[];
      const repeats = first.every((gradient, i) => gradient.equal(again[i]));
      return { outputs: [loss.detach(), nll], gradients: first, repeats, nllNeedsGrad: nll.requiresGrad };
    };
    const whole = runWith(
      (hidden, weight) => functional.linearCrossEntropy(hidden, weight, targets, { rowWeights, chunkSize }),
      w,
    );
    const split = runWith(
      (hidden, weight) => vocabParallelCrossEntropy(hidden, weight, targets, { rowWeights, chunkSize, ...part }),
      w.narrow(0, part.vocabStart, rows),
    );
    const own = whole.gradients.map((gradient) =>
      gradient.size(0) === vocabSize && gradient !== whole.gradients[frozen === "hidden" ? -1 : 0]
        ? gradient.narrow(0, part.vocabStart, rows)
        : gradient,
    );
    const pairs = [...whole.outputs, ...own].map((x, i) => [[...split.outputs, ...split.gradients][i], x]);
    const error = ([a, b]: Tensor[]) => {
      if (a.shape.join() !== b.shape.join() || a.dtype !== b.dtype)
        throw new Error(`${a.dtype} [${a.shape}], expected ${b.dtype} [${b.shape}]`);
      return b.numel() === 0 ? 0 : a.sub(b).abs().amax().item() / Math.max(1e-3, b.abs().amax().item());
    };
    return {
      error: Math.max(...pairs.map(error)),
      repeats: split.repeats,
      nllNeedsGrad: split.nllNeedsGrad,
      // What all ranks must hold alike: the losses, and the gradient of the hidden states.
      shared: values(split.outputs[1].double()).concat(frozen === "hidden" ? [] : values(split.gradients[0].double())),
    };
  });
}

export const problems = {
  "one chunk": { n: 9, vocabSize: 12, chunkSize: 100 },
  "odd vocabulary, chunks that do not divide": { n: 9, vocabSize: 13, chunkSize: 4, weighted: true },
  "a row at a time": { n: 5, vocabSize: 7, chunkSize: 1, factor: 3 },
  "no rows": { n: 0, vocabSize: 12, chunkSize: 4, weighted: true },
  float64: { n: 9, vocabSize: 13, chunkSize: 4, weighted: true, dtype: "float64" },
  bfloat16: { n: 9, vocabSize: 13, chunkSize: 4, weighted: true, dtype: "bfloat16" },
  autocast: { n: 9, vocabSize: 13, chunkSize: 4, weighted: true, autocast: true },
  "frozen head": { n: 9, vocabSize: 13, chunkSize: 4, frozen: "weight" },
  "frozen hidden states": { n: 9, vocabSize: 13, chunkSize: 4, frozen: "hidden" },
  "logits that overflow exp": { n: 9, vocabSize: 13, chunkSize: 4, scale: 300 },
} satisfies Record<string, Problem>;

function badTargets(group: ProcessGroup) {
  const [hidden, weight] = [normal([3, 4]), normal([4, 4])];
  const part = vocabularyPart(8, group);
  const call = (targets: Tensor, options = {}) =>
    thrown(() => vocabParallelCrossEntropy(hidden, weight, targets, { ...part, ...options }));
  const good = torch.tensor([0, 7, 3]).long();
  return {
    tooLarge: call(torch.tensor([0, 8, 3]).long()),
    negative: call(torch.tensor([0, -1, 3]).long()),
    dtype: call(good.int()),
    chunkSize: call(good, { chunkSize: 0 }),
    rowWeights: call(good, { rowWeights: torch.ones([2]) }),
    needsGrad: String(
      torch.noGrad(() => vocabParallelCrossEntropy(hidden, weight.requiresGrad_(), good, part)).loss.requiresGrad,
    ),
  };
}

export type TensorParallelPartsResult = ReturnType<typeof everything>;

function everything(group: ProcessGroup) {
  return {
    collectives: collectives(group),
    anyModule: anyModule(group),
    mistakes: mistakes(group),
    crossEntropy: Object.fromEntries(
      Object.entries(problems).map(([name, problem]) => [name, crossEntropy(group, problem)]),
    ) as Record<keyof typeof problems, ReturnType<typeof crossEntropy>>,
    badTargets: badTargets(group),
  };
}

await asRank(({ group }) => everything(group));
