import * as torch from "../../torch/index.js";
import { copyToGroup } from "../differentiable.js";
import { DistributedError } from "../errors.js";
import { localIds, type VocabularyPart } from "./vocabulary.js";

type Tensor = torch.Tensor;

/** Options of {@link vocabParallelCrossEntropy}. */
export interface VocabParallelCrossEntropyOptions extends VocabularyPart {
  /** float32 [n], weights of the rows; default 1. */
  rowWeights?: Tensor;
  /** Number of rows whose logits are computed at a time; default 1024. */
  chunkSize?: number;
}

/**
 * functional.linearCrossEntropy for a head whose rows are split over ranks. Each rank computes the logits of
 * `chunkSize` rows and its part of the vocabulary at a time; logits are not communicated. Per chunk the ranks reduce
 * the largest logit of each row and, in one message, the sum of exponentials and the target's logit (Megatron-LM's
 * vocab_parallel_cross_entropy).
 *
 * As in the native operator, gradients are computed in the forward pass, where the logits are available. Products run
 * in the dtype of autocast; statistics and the weight's gradient are in float32 (float64 for float64).
 *
 * @param hidden [n, d], equal on all ranks; its gradient is summed over them
 * @param weight [rows of this rank, d]
 * @param targets int64 [n], ids of the whole vocabulary, equal on all ranks
 * @returns equal on all ranks: loss = sum(rowWeights * nll), a differentiable scalar, and nll [n], detached
 * @throws DistributedError DISTRIBUTED_ARGUMENT
 */
export function vocabParallelCrossEntropy(
  hidden: Tensor,
  weight: Tensor,
  targets: Tensor,
  options: VocabParallelCrossEntropyOptions,
): { loss: Tensor; nll: Tensor } {
  check(hidden, weight, targets, options);
  const { enabled, dtype } = torch.currentAutocast(hidden.device);
  const computeDtype = enabled ? dtype : hidden.dtype;
  const isRecording = torch.isGradEnabled();
  const wanted = { hidden: isRecording && hidden.requiresGrad, weight: isRecording && weight.requiresGrad };
  let nll = targets;

  const apply = torch.defineFunction<[Tensor, Tensor], Tensor>({
    forward(context, h, w) {
      const made = torch.scope(() =>
        torch.autocast({ device: h.device, enabled: false }, () =>
          run(h.to({ dtype: computeDtype }), w.to({ dtype: computeDtype }), targets, wanted, options),
        ),
      );
      nll = made.nll;
      context.saveForBackward(...[made.dHidden, made.dWeight].filter((gradient) => gradient !== null));
      return made.loss;
    },
    backward(context, incoming) {
      if (!incoming) return [null, null];
      const saved = [...context.saved];
      const gradient = (isWanted: boolean, like: torch.DType) =>
        isWanted ? (saved.shift() as Tensor).mul(incoming).to({ dtype: like }) : null;
      return [gradient(wanted.hidden, hidden.dtype), gradient(wanted.weight, weight.dtype)];
    },
  });
  const loss = apply(copyToGroup(hidden, options.group), weight);
  return { loss, nll };
}

interface Made {
  loss: Tensor;
  nll: Tensor;
  /** Gradient for an incoming gradient of 1, from this rank's part of the vocabulary; null if not needed. */
  dHidden: Tensor | null;
  dWeight: Tensor | null;
}

function run(
  hidden: Tensor,
  weight: Tensor,
  targets: Tensor,
  wanted: { hidden: boolean; weight: boolean },
  { rowWeights, chunkSize = 1024, ...part }: VocabParallelCrossEntropyOptions,
): Made {
  const { device, dtype } = hidden;
  const [n, d] = hidden.shape;
  const exact = dtype === "float64" ? "float64" : "float32";
  const rowWeight = rowWeights?.to({ dtype: exact });
  const nll = torch.empty([n], { dtype: exact, device });
  const dHidden = wanted.hidden ? torch.empty([n, d], { dtype, device }) : null;
  const dWeight = wanted.weight ? torch.zeros([weight.size(0), d], { dtype: exact, device }) : null;
  for (let first = 0; first < n; first += chunkSize) {
    torch.scope(() => {
      const rows = (tensor: Tensor) => tensor.narrow(0, first, Math.min(chunkSize, n - first));
      const chunk = rows(hidden);
      const { exponentials, sums, target, losses } = softmaxParts(chunk, weight, rows(targets), exact, part);
      rows(nll).copy_(losses);
      if (!dHidden && !dWeight) return;
      // dz = w (softmax(z) - one_hot(t)) = (exp(z - max) - sum * one_hot(t)) * w / sum
      const { local, isElsewhere } = target;
      exponentials.scatterAdd_(1, local.unsqueeze(1), sums.neg().maskedFill(isElsewhere, 0).unsqueeze(1));
      const factors = rowWeight ? rows(rowWeight).div(sums) : sums.reciprocal();
      const dLogits = exponentials.mul_(factors.unsqueeze(1)).to({ dtype });
      if (dHidden) rows(dHidden).copy_(dLogits.mm(weight));
      if (dWeight) addProduct(dWeight, dLogits.t(), chunk);
    });
  }
  return { loss: rowWeight ? nll.mul(rowWeight).sum() : nll.sum(), nll, dHidden, dWeight };
}

/** A chunk's logits as exp(z - max) over this rank's part of the vocabulary, and the statistics over all ranks. */
function softmaxParts(hidden: Tensor, weight: Tensor, targets: Tensor, exact: torch.DType, part: VocabularyPart) {
  const { group } = part;
  const logits = hidden.mm(weight.t()).to({ dtype: exact });
  const target = localIds(targets, weight.size(0), part);
  const highest = logits.amax([1]);
  const largest = group.allReduce(highest, { op: "max" });
  const own = logits.gather(1, target.local.unsqueeze(1)).squeeze(1);
  largest.wait();
  const exponentials = logits.sub_(highest.unsqueeze(1)).exp_();
  const packed = torch.stack([exponentials.sum([1]), own.sub(highest).maskedFill(target.isElsewhere, 0)]);
  group.allReduce(packed).wait();
  const [sums, picked] = [packed.select(0, 0), packed.select(0, 1)];
  return { exponentials, sums, target, losses: sums.log().sub(picked) };
}

/**
 * sum += a b. Products on CUDA can have a float32 result; on the CPU they are rounded to the operands' dtype before
 * they are added.
 */
function addProduct(sum: Tensor, a: Tensor, b: Tensor): void {
  if (a.dtype === sum.dtype) sum.addmm_(a, b);
  else if (a.isCuda) sum.add_(torch.ops.aten.mm(a, b, sum.dtype) as Tensor);
  else sum.add_(a.mm(b));
}

function check(hidden: Tensor, weight: Tensor, targets: Tensor, options: VocabParallelCrossEntropyOptions): void {
  const { rowWeights, chunkSize = 1024, vocabSize, vocabStart } = options;
  const wrong = (message: string) =>
    new DistributedError("DISTRIBUTED_ARGUMENT", `vocabParallelCrossEntropy: ${message}`);
  if (hidden.ndim !== 2 || weight.ndim !== 2 || hidden.size(1) !== weight.size(1)) {
    throw wrong(`hidden must be [n, d] and weight [v, d], got [${hidden.shape}] and [${weight.shape}]`);
  }
  const n = hidden.size(0);
  if (targets.dtype !== "int64" || targets.ndim !== 1 || targets.size(0) !== n) {
    throw wrong(`targets must be an int64 tensor of shape [${n}], got ${targets.dtype} [${targets.shape}]`);
  }
  if (rowWeights && (rowWeights.ndim !== 1 || rowWeights.size(0) !== n || rowWeights.requiresGrad)) {
    throw wrong(`rowWeights must have shape [${n}] and no gradient, got [${rowWeights.shape}]`);
  }
  if (!Number.isInteger(chunkSize) || chunkSize < 1) throw wrong(`chunkSize must be at least 1, got ${chunkSize}`);
  if (vocabStart < 0 || vocabStart + weight.size(0) > vocabSize) {
    throw wrong(`rows ${vocabStart} to ${vocabStart + weight.size(0)} are outside a vocabulary of ${vocabSize}`);
  }
}
