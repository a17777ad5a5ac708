// One rank of modules, which are no decoders, that are trained data-parallel and compared with one process's.
import {
  communication,
  DataParallel,
  type DataParallelOptions,
  DeviceMesh,
  type ProcessGroup,
} from "../../../lib/distributed/index.js";
import { AdamW, checkpoint, Module, parameter, wrapForward } from "../../../lib/nn/index.js";
import * as torch from "../../../lib/torch/index.js";
import { native } from "../../../lib/torch/native.js";
import { asRank } from "../rank.js";

type Tensor = torch.Tensor;

class Source {
  readonly #generator = new torch.Generator({ seed: 7 });
  constructor(readonly dtype: torch.DType) {}

  weight(...shape: number[]): Tensor {
    const { dtype } = this;
    return parameter(torch.scope(() => torch.randn(shape, { generator: this.#generator }).mul(0.5).to(dtype)));
  }
}

const WIDTH = 5;

/** Rows that no number of ranks divides: 1, 2 and 5; two parameters in a list; tensors deep in arguments and results. */
class Block extends Module {
  weight: Tensor;
  down: Tensor;
  biases: Tensor[];

  constructor(source: Source) {
    super();
    this.weight = source.weight(WIDTH, WIDTH);
    this.down = source.weight(2, WIDTH);
    this.biases = [source.weight(1), source.weight(WIDTH)];
  }

  forward({ x }: { x: Tensor }, { scale }: { scale: number }): { x: Tensor; extra: (Tensor | null)[] } {
    const hidden = torch.linear(x, this.weight, this.biases[1]).tanh();
    const low = torch.linear(hidden, this.down).mul(scale).add(this.biases[0]);
    return { x: x.add(low.matmul(this.down)), extra: [low, null] };
  }
}

/** Nothing to shard. */
class Double extends Module {
  forward({ x }: { x: Tensor }): { x: Tensor; extra: Tensor[] } {
    return { x: x.mul(2), extra: [] };
  }
}

class Net extends Module {
  embed: Tensor;
  blocks: (Block | Double)[];
  scale: Tensor;
  head: Tensor;
  /** The blocks of one forward. */
  order = [0, 1, 2];

  constructor(dtype: torch.DType) {
    super();
    const source = new Source(dtype);
    this.embed = source.weight(3, WIDTH);
    this.blocks = [new Block(source), new Block(source), new Block(source)];
    this.scale = source.weight(1);
    this.head = source.weight(2, WIDTH);
  }

  block(index: number): Block {
    return this.blocks[index] as Block;
  }

  forward(ids: Tensor): Tensor {
    let x = torch.embedding(this.embed, ids);
    for (const index of this.order) {
      const out = this.blocks[index].forward({ x }, { scale: 1.5 });
      x = out.extra[0] ? out.x.add(out.extra[0].sum(-1, true)) : out.x;
    }
    return torch.linear(x.mul(this.scale), this.head);
  }
}

/** What of a micro-batch's forward is in its loss: everything, nothing, or parameters outside the segments alone. */
type Part = "all" | "none" | "root";

function lossOf(model: Net, ids: Tensor, part: Part): Tensor {
  const out = model.forward(ids);
  if (part === "none") return torch.zeros([], { dtype: out.dtype });
  return part === "root" ? model.scale.mul(3).sum() : out.square().sum();
}

interface Case {
  dtype?: torch.DType;
  change?: (model: Net) => void;
  options?: Partial<DataParallelOptions>;
  /** By rank and micro-batch. */
  part?: (rank: number, micro: number) => Part;
  micros?: number;
  checkpointed?: boolean;
}

const freeze = (tensors: readonly Tensor[]) => {
  for (const tensor of tensors) tensor.requiresGrad = false;
};

export const cases = {
  "whole segments": {},
  "gathered parameters that stay": { options: { reshardAfterForward: false } },
  "three micro-batches": { micros: 3 },
  "activation checkpointing": { checkpointed: true, micros: 2 },
  "a frozen segment, and frozen parameters in another": {
    change: (model) => freeze([...model.blocks[1].parameters(), model.block(2).down]),
  },
  "a first segment whose input needs no gradient": { change: (model) => freeze([model.embed]) },
  "first segments that have no backward, and a rank without a loss": {
    change: (model) => freeze([model.embed, ...model.blocks[0].parameters()]),
    part: (rank) => (rank === 1 ? "none" : "all"),
  },
  "nothing to train but the head": {
    change: (model) => freeze(model.parameters().filter((tensor) => tensor !== model.head)),
  },
  "a rank without a loss": { part: (rank) => (rank === 1 ? "none" : "all") },
  "ranks without a loss in the last micro-batch": {
    part: (rank, micro) => (micro === 1 && rank > 0 ? "none" : "all"),
    micros: 2,
  },
  "a rank whose loss is of no segment": { part: (rank) => (rank === 0 ? "root" : "all") },
  "no loss anywhere": { part: () => "none" },
  "a parameter tied within the root": {
    change: (model) => {
      const [old] = [model.head];
      model.head = model.embed;
      old.dispose();
    },
  },
  "a parameter tied over the root and a segment": {
    change: (model) => {
      const { down } = model.block(1);
      model.block(1).down = model.head;
      down.dispose();
    },
  },
  "a parameter tied over two segments": {
    change: (model) => {
      const { weight } = model.block(2);
      model.block(2).weight = model.block(0).weight;
      weight.dispose();
    },
  },
  "a segment that is called twice": {
    change: (model) => {
      model.order = [0, 1, 2, 1];
    },
  },
  "a segment without parameters": {
    change: (model) => {
      model.blocks[1].dispose();
      model.blocks[1] = new Double();
    },
  },
  "buckets of a few bytes": { options: { bucketBytes: 16 }, micros: 2 },
} satisfies Record<string, Case>;

function net({ dtype = "float64", change, checkpointed }: Case): Net {
  const model = new Net(dtype);
  change?.(model);
  if (checkpointed) for (const block of model.blocks) wrapForward(block as Block, (forward) => checkpoint(forward));
  return model;
}

const idsOf = (rank: number, micro: number) => torch.tensor([rank % 3, (rank + micro) % 3, 1]).long();

function difference(a: Tensor, b: Tensor): number {
  if (a.shape.join() !== b.shape.join()) return Number.POSITIVE_INFINITY;
  return a.numel() === 0 ? 0 : a.detach().double().sub(b.detach().double()).abs().amax().item();
}

/** The largest error of this rank's gradients, weights and outputs over two steps, and the largest gradient. */
function compare(one: Case, groups: Pick<DataParallelOptions, "shard" | "replicate">, rank: number, size: number) {
  const { micros = 1, part = () => "all" as const, options } = one;
  const reference = net(one);
  const model = net(one);
  const parallel = new DataParallel(model, model.blocks as Block[], { ...options, ...groups });
  let gradients = 0;
  let weights = 0;
  let outputs = 0;
  let largest = 0;
  const names = new Map(Array.from(reference.namedParameters()));
  for (let step = 0; step < 2; step++) {
    torch.scope(() => {
      const ids = idsOf(1, step);
      outputs = Math.max(
        outputs,
        difference(
          torch.noGrad(() => model.forward(ids)),
          reference.forward(ids),
        ),
      );
      parallel.release();
      for (let r = 0; r < size; r++) {
        for (let micro = 0; micro < micros; micro++) {
          const loss = lossOf(reference, idsOf(r + step, micro), part(r, micro));
          if (loss.requiresGrad) loss.backward();
        }
      }
      for (let micro = 0; micro < micros; micro++) {
        const loss = lossOf(model, idsOf(rank + step, micro), part(rank, micro));
        parallel.backward(loss, { isLast: micro === micros - 1 });
      }
      parallel.finish();
      torch.noGrad(() => {
        for (const { name, tensor, slice } of parallel.local()) {
          const whole = names.get(name) as Tensor;
          const own = (x: Tensor) => x.narrow(0, slice.offset[0], slice.size[0]);
          weights = Math.max(weights, difference(tensor, own(whole)));
          if (tensor.requiresGrad !== whole.requiresGrad) throw new Error(`${name} requires another gradient`);
          if (!tensor.requiresGrad) {
            if (tensor.grad) throw new Error(`${name} is frozen and has a gradient`);
            continue;
          }
          const expected = whole.grad ? own(whole.grad) : torch.zeros(tensor.shape, { dtype: tensor.dtype });
          if (expected.numel() > 0) largest = Math.max(largest, expected.abs().amax().item());
          gradients = Math.max(gradients, difference(tensor.grad as Tensor, expected));
          tensor.sub_((tensor.grad as Tensor).mul(0.02));
        }
        for (const whole of names.values()) if (whole.grad) whole.sub_(whole.grad.mul(0.02));
      });
      model.zeroGrad();
      reference.zeroGrad();
    });
  }
  const owned = parallel.local().every((local) => local.owned);
  parallel.dispose();
  model.dispose();
  reference.dispose();
  return { gradients, weights, outputs, largest, owned };
}

/** What the gradients of all ranks' data add up to in float32, computed by one model. */
function gradientSums(reference: ReturnType<typeof net>, ranks: number): Map<string, Tensor> {
  const sums = new Map<string, Tensor>();
  for (let r = 0; r < ranks; r++) {
    lossOf(reference, idsOf(r, 0), "all").backward();
    for (const [name, { grad }] of reference.namedParameters()) {
      const own = (grad as Tensor).float();
      sums.set(name, sums.get(name)?.add(own) ?? own);
    }
    reference.zeroGrad();
  }
  return sums;
}

/** float32 shards that are gathered in bfloat16, against a bfloat16 model's micro-batches in one process. */
function rounded(group: ProcessGroup): { gradients: number; largest: number; dtypes: string[] } {
  const { rank, size } = group;
  const reference = net({ dtype: "bfloat16" });
  const model = net({ dtype: "float32" });
  const options = { shard: group, replicate: null, gatherDtype: "bfloat16" as const };
  const parallel = new DataParallel(model, model.blocks as Block[], options);
  const found = torch.scope(() => {
    const sums = gradientSums(reference, size);
    parallel.backward(lossOf(model, idsOf(rank, 0), "all"), { isLast: true });
    parallel.finish();
    const errors = parallel.local().map(({ name, tensor, slice }) => {
      const whole = sums.get(name) as Tensor;
      return difference(tensor.grad as Tensor, whole.narrow(0, slice.offset[0], slice.size[0]));
    });
    const largest = Math.max(...Array.from(sums.values(), (sum) => sum.abs().amax().item()));
    return { gradients: Math.max(...errors), largest, dtypes: parallel.local().map(({ tensor }) => tensor.dtype) };
  });
  parallel.dispose();
  model.dispose();
  reference.dispose();
  return found;
}

/** Replicas of a bfloat16 model: their gradients are summed in float32, and rounded once. */
function replicated16(group: ProcessGroup): { differing: number; dtypes: string[] } {
  const { rank, size } = group;
  const reference = net({ dtype: "bfloat16" });
  const model = net({ dtype: "bfloat16" });
  const parallel = new DataParallel(model, model.blocks as Block[], { shard: null, replicate: group });
  const found = torch.scope(() => {
    const sums = gradientSums(reference, size);
    parallel.backward(lossOf(model, idsOf(rank, 0), "all"), { isLast: true });
    parallel.finish();
    let differing = 0;
    const dtypes: string[] = [];
    for (const { name, tensor } of parallel.local()) {
      const own = tensor.grad as Tensor;
      dtypes.push(own.dtype);
      differing += own
        .ne((sums.get(name) as Tensor).bfloat16())
        .sum()
        .item();
    }
    return { differing, dtypes };
  });
  parallel.dispose();
  model.dispose();
  reference.dispose();
  return found;
}

export type Compared = ReturnType<typeof compare>;

function refusal(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    return `${(error as { code?: string }).code}: ${(error as Error).message}`;
  }
  return "none";
}

function mistakes(group: ProcessGroup) {
  const attempt = (
    change: (model: Net) => void,
    segments = (model: Net) => model.blocks as Block[],
    replicated = false,
  ) => {
    const model = net({ change });
    const shapes = () => JSON.stringify(Array.from(model.namedParameters(), ([name, { shape }]) => [name, shape]));
    const before = shapes();
    const groups = replicated ? { shard: null, replicate: group } : { shard: group, replicate: null };
    const message = refusal(() => new DataParallel(model, segments(model), groups));
    if (message !== "none" && shapes() !== before) throw new Error(`the model is changed after: ${message}`);
    model.dispose();
    return message;
  };
  const scalar = (model: Net) => {
    model.block(2).biases[0] = parameter(torch.tensor(1));
  };
  const mixed = (model: Net) => {
    model.block(1).weight = parameter(torch.ones([WIDTH, WIDTH]));
  };
  return {
    scalar: attempt((model) => {
      scalar(model);
      for (const block of model.blocks) block.to({ dtype: "float64" });
    }),
    scalarReplicated: attempt(scalar, undefined, true),
    mixed: attempt(mixed),
    mixedReplicated: attempt(mixed, undefined, true),
    stranger: attempt(
      () => {},
      () => [new Block(new Source("float64"))],
    ),
    twice: attempt(
      () => {},
      ({ blocks }) => [blocks[0], blocks[0]] as Block[],
    ),
  };
}

/** What is left of a model that was taken out again. */
function afterwards(group: ProcessGroup) {
  const ids = torch.tensor([0, 1]).long();
  const expected = net({});
  const whole = net({});
  new DataParallel(whole, whole.blocks as Block[], { shard: null, replicate: group }).dispose();
  const out = torch.noGrad(() => whole.forward(ids));
  const sharded = net({});
  const parallel = new DataParallel(sharded, sharded.blocks as Block[], { shard: group, replicate: null });
  parallel.backward(lossOf(sharded, ids, "all"), { isLast: true }); // and not finished
  parallel.dispose();
  return {
    replicated: difference(out, expected.forward(ids)),
    sharded: refusal(() => torch.noGrad(() => sharded.forward(ids))),
    rows: sharded.parameters().map((tensor) => tensor.size(0)),
  };
}

/** Bytes of everything that training needs between two steps, and at most while it computes. */
function bytes(group: ProcessGroup) {
  const width = 128;
  const layers = 8;
  const source = new Source("float32");
  class Layer extends Module {
    weight = source.weight(width, width);
    bias = source.weight(width + 1);
    forward(x: Tensor): Tensor {
      sample();
      return watch(torch.linear(x, this.weight, this.bias.narrow(0, 0, width)));
    }
  }
  class Tower extends Module {
    layers = Array.from({ length: layers }, () => new Layer());
    head = source.weight(3, width);
    forward(x: Tensor): Tensor {
      return torch.linear(
        this.layers.reduce((y, layer) => layer.forward(y), x),
        this.head,
      );
    }
  }
  let most = 0;
  const sample = () => {
    most = Math.max(most, torch.memory().host);
  };
  const watch = torch.defineFunction<[Tensor], Tensor>({
    forward: (_, x) => x,
    backward: (_, gradient) => {
      sample();
      return gradient;
    },
  });
  const start = torch.memory().host;
  const model = new Tower();
  const parallel = new DataParallel(model, model.layers, { shard: group, replicate: null });
  const optimizer = new AdamW(model.namedParameters());
  const x = torch.ones([2, width], { requiresGrad: true });
  const step = () => {
    torch.scope(() => parallel.backward(model.forward(x).sum(), { isLast: true }));
    parallel.finish();
    optimizer.step(1e-3);
  };
  step();
  model.zeroGrad();
  x.grad = null;
  const between = torch.memory().host - start - x.numel() * 4;
  most = 0;
  step();
  const peak = most - start - x.numel() * 4;
  const gradients = model.parameters().map(({ grad }) => grad as Tensor);
  const withGradients = torch.memory().host - start - x.numel() * 4;
  for (const gradient of gradients) gradient.dispose();
  const own = model.parameters().reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  optimizer.dispose();
  parallel.dispose();
  model.dispose();
  x.dispose();
  return { between, withGradients, peak, own, width, layers };
}

/** Backward passes run on another thread meanwhile, and call back into this one, as on a machine with GPUs. */
function served<T>(run: () => T): T {
  native.serveBackward(true);
  try {
    return run();
  } finally {
    native.serveBackward(false);
  }
}

export type DataParallelResult = Awaited<ReturnType<typeof everything>>;

async function everything(group: ProcessGroup) {
  const { rank, size } = group;
  const all = Object.entries(cases) as [keyof typeof cases, Case][];
  const everyCase = (groups: Pick<DataParallelOptions, "shard" | "replicate">, wanted = all) =>
    Object.fromEntries(wanted.map(([name, one]) => [name, compare(one, groups, rank, size)])) as Record<
      keyof typeof cases,
      Compared
    >;
  const hybrid = async () => {
    const mesh = await DeviceMesh.create(group, { replicate: 2, shard: 2 });
    const result = everyCase({ shard: mesh.group("shard"), replicate: mesh.group("replicate") });
    await mesh.destroy();
    return result;
  };
  const before = torch.memory().tensors;
  const calls = communication.calls;
  return {
    sharded: everyCase({ shard: group, replicate: null }, size === 4 ? [] : all),
    replicated: everyCase({ shard: null, replicate: group }, size === 4 ? [] : all),
    hybrid: size === 4 ? await hybrid() : undefined,
    served: served(() => everyCase({ shard: group, replicate: null }, size === 2 ? all : [])),
    rounded: rounded(group),
    replicated16: replicated16(group),
    calls: communication.calls - calls,
    leaked: torch.memory().tensors - before,
    mistakes: mistakes(group),
    afterwards: afterwards(group),
    bytes: bytes(group),
  };
}

await asRank(({ group }) => everything(group));
