import {
  autoregressiveObjective,
  blockDiffusionObjective,
  type Metric,
  type Objective,
} from "../../../lib/diffusion/index.js";
import type { AttentionPlan, Decoder } from "../../../lib/model/index.js";
import {
  contextParallel,
  type PieceOrder,
  type RingGroup,
  ringAttention,
  SequenceSplit,
} from "../../../lib/parallel/context/index.js";
import type { DType, Tensor } from "../../../lib/torch/index.js";
import * as torch from "../../../lib/torch/index.js";
import { context, MASK, randomBatch, tinyModel } from "../../diffusion/fixture.js";

/** What every rank computes on its own, whole, and together with the others, in parts. */

export interface AttentionCase {
  batch: number;
  length: number;
  /** Absent: causal. */
  blockSize?: number;
  onlyNoisy?: boolean;
  documents?: number[];
  order?: PieceOrder;
  dtype?: DType;
  scale?: number;
}

/** The worst differences of a rank's outputs and gradients from the same rows of whole attention. */
function attention(group: RingGroup, c: AttentionCase): { out: number; gradients: number } {
  return torch.scope(() => {
    const { batch, length, blockSize, documents, dtype = "float64", scale } = c;
    const [heads, keyHeads, headDim, halves] = [4, 2, 8, blockSize === undefined ? 1 : 2];
    const asking = c.onlyNoisy ? 1 : halves;
    const draw = (seed: number, positions: number, h: number) =>
      torch
        .randn([batch, positions, h, headDim], { generator: new torch.Generator({ seed }), dtype: "float64" })
        .to(dtype);
    const [q, k, v, grad] = [
      draw(1, asking * length, heads),
      draw(2, halves * length, keyHeads),
      draw(3, halves * length, keyHeads),
      draw(4, asking * length, heads),
    ];
    const { diffcoder } = torch.ops;
    const settings = [documents ?? null, scale ?? null];
    const [whole, wholeGradients] = differentiate([q, k, v], grad, (...qkv) =>
      blockSize === undefined
        ? (diffcoder.causal_attention(...qkv, ...settings) as Tensor)
        : (diffcoder.block_diffusion_attention(...qkv, blockSize, ...settings) as Tensor),
    );

    const split = new SequenceSplit({ batch, length, size: group.size, blockSize, documents, order: c.order });
    const mine = (t: Tensor) => localOf(t, t.size(1) / length, split, group.rank, length);
    // Positions that stand for nothing hold others' numbers; the model's loss never depends on them.
    const real = mine(torch.ones([batch, asking * length, 1, 1], { dtype })).mul(
      realRows(split, group.rank, asking, dtype),
    );
    const [out, gradients] = differentiate([q, k, v].map(mine), mine(grad).mul(real), (...[a, b, d]) =>
      ringAttention(a, b, d, { group, split, blockSize, scale }),
    );
    const realKeys = realRows(split, group.rank, halves, dtype);
    const apart = (a: Tensor, b: Tensor, counted: Tensor) =>
      a.sub(mine(b)).mul(counted).abs().amax().double().item() / Math.max(1, b.abs().amax().double().item());
    return {
      out: apart(out, whole, real),
      gradients: Math.max(...gradients.map((g, i) => apart(g, wholeGradients[i], i === 0 ? real : realKeys))),
    };
  });
}

function differentiate(inputs: Tensor[], grad: Tensor, run: (...inputs: Tensor[]) => Tensor): [Tensor, Tensor[]] {
  const leaves = inputs.map((input) => input.detach().clone().requiresGrad_());
  const out = run(...leaves);
  return [out.detach(), torch.grad([out], leaves, { gradOutputs: [grad] }) as Tensor[]];
}

/** A rank's positions of [b, halves * length, ...]. */
function localOf(t: Tensor, halves: number, split: SequenceSplit, rank: number, length: number): Tensor {
  const positions = torch.tensor(split.positions(rank)).to({ dtype: "int64" }).view([-1, split.length]);
  const rows = positions.size(0);
  const picked = Array.from({ length: t.size(0) }, (_, row) => {
    const at = positions.select(0, rows === 1 ? 0 : row);
    const index = torch.cat(Array.from({ length: halves }, (_, half) => at.add(half * length)));
    return t.select(0, row).indexSelect(0, index);
  });
  return torch.stack(picked);
}

/** [b, halves * l, 1, 1]: 1 for positions, 0 for those that stand for nothing. */
function realRows(split: SequenceSplit, rank: number, halves: number, dtype: DType): Tensor {
  const rows = Array.from({ length: split.batch }, (_, row) => {
    const held = split.pieces(rank, row).reduce((sum, { start, end }) => sum + end - start, 0);
    const flags = torch.zeros([split.length], { dtype });
    if (held > 0) flags.narrow(0, 0, held).fill_(1);
    return torch.cat(Array.from({ length: halves }, () => flags));
  });
  return torch.stack(rows).unsqueeze(-1).unsqueeze(-1);
}

export interface ObjectiveCase {
  kind: "autoregressive" | "block-diffusion" | "own";
  length: number;
  rows?: number;
  blockSize?: number;
  shift?: boolean;
  documents?: number[];
  lossMask?: number[];
  order?: PieceOrder;
  dtype?: "float32" | "float64";
  autocast?: boolean;
}

/** The worst differences of loss, metrics and gradients, added up over the ranks, from those of a process alone. */
async function objective(group: RingGroup, c: ObjectiveCase) {
  const model = await tinyModel("diffusion/mild", c.dtype ?? "float32");
  const indices = Array.from({ length: c.rows ?? 2 }, (_, i) => i);
  const lossMask = c.lossMask && Uint8Array.from(c.lossMask);
  const batch = randomBatch(indices, c.length, { documents: c.documents, lossMask });
  const run = () => {
    for (const parameter of model.parameters()) parameter.grad = null;
    return torch.scope(() => {
      const forward = () => objectiveOf(c)(model, batch, context());
      const result = torch.autocast({ device: "cpu", dtype: "bfloat16", enabled: c.autocast === true }, forward);
      result.loss.backward();
      const metrics = Object.values(result.metrics ?? {}).map(numberOf);
      const gradients = model.parameters().map((p) => (p.grad ?? torch.zerosLike(p)).clone());
      return { loss: result.loss.detach(), metrics, gradients };
    });
  };
  const alone = run();
  const parallel = contextParallel(model, group, { order: c.order });
  const together = run();
  parallel.remove();
  const after = run();
  return torch.scope(() => {
    const own = together.loss.item();
    const [loss, ...gradients] = [together.loss, ...together.gradients].map((t) => {
      const sum = t.double();
      group.allReduce(sum).wait();
      return sum;
    });
    const scale = Math.max(...alone.gradients.map((g) => g.abs().amax().item()));
    return {
      loss: Math.abs(loss.item() - alone.loss.item()) / Math.abs(alone.loss.item()),
      own,
      metrics: Math.max(0, ...alone.metrics.map((m, i) => Math.abs(m - together.metrics[i]))),
      gradients: Math.max(...gradients.map((g, i) => g.sub(alone.gradients[i]).abs().amax().item())) / scale,
      restored: after.loss.item() === alone.loss.item() && !Object.hasOwn(model, "forward"),
    };
  });
}

function numberOf(metric: Metric): number {
  if (typeof metric === "number") return metric;
  if (metric instanceof torch.Tensor) return metric.item();
  return numberOf(metric.total) / Math.max(1, metric.count);
}

export function objectiveOf({ kind, blockSize, shift }: ObjectiveCase): Objective {
  if (kind === "autoregressive") return autoregressiveObjective();
  if (kind === "own") return everythingSeen;
  return blockDiffusionObjective({ blockSize, shift, maskId: MASK });
}

/** An objective of a user's own, with attention of its own: no pattern that could be split. */
const everythingSeen: Objective = (model, batch) => {
  const { seqLen, batch: rows } = batch;
  const plan: AttentionPlan = {
    positions: torch.arange(seqLen),
    attend: (_, q, k, v) => {
      const [a, b, d] = [q, k, v].map((x) => x.transpose(1, 2));
      return torch.scaledDotProductAttention(a, b, d, null, 0, false, { enableGqa: true }).transpose(1, 2);
    },
    lastLayer: { rows: torch.tensor([1, 5, 7], { dtype: "int64" }) },
  };
  const ids = torch.tensor(batch.tokens).to({ dtype: "int64" });
  const hidden = model.forward(ids.view([rows, seqLen]), plan);
  const { loss, nll } = model.crossEntropy(hidden, torch.tensor([6, 7, 8], { dtype: "int64" }));
  return { loss, normalizer: 3, metrics: { nll: nll.sum() } };
};

/** What goes wrong in a call, by name. */
async function refusals(group: RingGroup, _: null): Promise<string[]> {
  const model = await tinyModel("diffusion/mild");
  contextParallel(model, group);
  return torch.scope(() => {
    const attempt = (call: (model: Decoder) => unknown) => {
      try {
        call(model);
        return "nothing";
      } catch (error) {
        return `${(error as { code?: string }).code}: ${(error as Error).message}`;
      }
    };
    const rows = torch.tensor([3, 9], { dtype: "int64" });
    const plan: AttentionPlan = {
      positions: torch.arange(8),
      attend: (_layer, q) => q,
      lastLayer: { rows },
      pattern: { kind: "causal", length: 8 },
    };
    const ids = torch.ones([2, 8], { dtype: "int64" });
    return [
      attempt((m) => m.forward(torch.ones([2, 9], { dtype: "int64" }), plan)),
      attempt((m) => m.forward(ids, { ...plan, pattern: { kind: "causal", length: 8, documents: [0, 4, 8] } })),
      attempt((m) => m.crossEntropy(m.forward(ids, plan), torch.ones([3], { dtype: "int64" }))),
    ];
  });
}

/** Tensors alive before and after steps: what a step leaves behind. */
async function leftovers(group: RingGroup, _: null): Promise<number> {
  const model = await tinyModel("diffusion/mild");
  const batch = randomBatch([0, 1], 32);
  contextParallel(model, group);
  const step = () =>
    torch.scope(() => {
      blockDiffusionObjective({ blockSize: 4, maskId: MASK })(model, batch, context()).loss.backward();
    });
  step();
  const { tensors } = torch.memory();
  for (let i = 0; i < 3; i++) step();
  return torch.memory().tensors - tensors;
}

export const jobs = { attention, objective, refusals, leftovers };
