import {
  DataParallel,
  DeviceMesh,
  type LocalTensor,
  type ProcessGroup,
  type World,
} from "../../../lib/distributed/index.js";
import { coverProblem, volume } from "../../../lib/distributed/tensor-slice.js";
import type { DecoderConfigInput } from "../../../lib/model/index.js";
import { type TensorParallel, tensorParallel } from "../../../lib/parallel/tensor.js";
import * as torch from "../../../lib/torch/index.js";
import { asRank } from "../rank.js";
import {
  alone,
  autoregressive,
  blockDiffusion,
  checkpointLayers,
  decoder,
  disposeOf,
  type Expected,
  type GradientError,
  gradientError,
  wholeParts,
} from "./split-decoder.js";

export interface Laid {
  lossError: number;
  gradientError: GradientError;
  /** Of the gradient's norm, in which every element counts once. */
  normError: number;
  /** What is wrong with the slices that all ranks own together, by parameter. */
  cover: string[];
  /** Elements of this rank's parts, and of the model. */
  elements: number;
  allElements: number;
}

const config: Partial<DecoderConfigInput> = { tieWordEmbeddings: true, vocabSize: 49 };

/** Two data-parallel ranks, each two tensor-parallel ones: one sequence for each of the former. */
async function withData(world: World, kind: "shard" | "replicate"): Promise<Laid> {
  const reference = decoder(config);
  const expected = alone(reference, blockDiffusion, [0, 1]);
  reference.dispose();
  const model = decoder(config);
  const mesh = await DeviceMesh.create(world.group, { [kind]: 2, tensor: 2 });
  const [data, tensor] = [mesh.group(kind), mesh.group("tensor")] as ProcessGroup[];
  const split = tensorParallel(model, tensor);
  checkpointLayers(model);
  const groups = kind === "shard" ? { shard: data, replicate: null } : { shard: null, replicate: data };
  const parallel = new DataParallel(model, model.layers, groups);
  const loss = torch.scope(() => {
    const own = blockDiffusion(model, [data.rank]);
    parallel.backward(own, { isLast: true });
    parallel.finish();
    return own.item();
  });
  const sums = torch.scope(() => {
    const losses = torch.tensor([loss], { dtype: "float64" });
    data.allReduce(losses).wait();
    return losses.item();
  });
  const parts = split.compose(parallel.local());
  const result = await look(world, parts, split, expected, sums, kind === "shard" ? [data, tensor] : [tensor]);
  parallel.dispose();
  model.dispose();
  await mesh.destroy();
  return result;
}

/** Four tensor-parallel ranks, two of which share each key/value head. */
async function fourWays(world: World, more: Partial<DecoderConfigInput> = {}): Promise<Laid> {
  const config = { vocabSize: 49, ...more };
  const reference = decoder(config);
  const expected = alone(reference, autoregressive, [0, 1]);
  reference.dispose();
  const model = decoder(config);
  const split = tensorParallel(model, world.group);
  const loss = torch.scope(() => {
    const total = autoregressive(model, [0, 1]);
    total.backward();
    return total.item();
  });
  const parts = split.compose(wholeParts(model));
  const result = await look(world, parts, split, expected, loss, [world.group]);
  model.dispose();
  return result;
}

async function look(
  world: World,
  parts: readonly LocalTensor[],
  split: TensorParallel,
  expected: Expected,
  loss: number,
  groups: readonly ProcessGroup[],
): Promise<Laid> {
  const [norm, wholeNorm] = torch.scope(() => {
    const square = torch.zeros([1], { dtype: "float64" });
    for (const { name, tensor } of parts) {
      square.add_((tensor.grad as torch.Tensor).double().square().sum(), { alpha: 1 / split.copies(name) });
    }
    for (const group of groups) group.allReduce(square).wait();
    const whole = [...expected.gradients.values()].map((gradient) => gradient.norm().item());
    return [Math.sqrt(square.item()), Math.hypot(...whole)];
  });
  const owned = parts.filter(({ owned }) => owned).map(({ name, slice }) => ({ name, slice }));
  const everyones = (await world.control.allGatherObject(owned)).flat();
  const cover = [...expected.gradients].flatMap(([name, { shape }]) => {
    const problem = coverProblem(
      shape,
      everyones.filter((part) => part.name === name).map(({ slice }) => slice),
    );
    return problem ? [`${name}: ${problem}`] : [];
  });
  const result: Laid = {
    lossError: Math.abs(loss / expected.loss - 1),
    gradientError: gradientError(parts, expected),
    normError: Math.abs(norm / wholeNorm - 1),
    cover,
    elements: parts.reduce((sum, { tensor }) => sum + tensor.numel(), 0),
    allElements: [...expected.gradients.values()].reduce((sum, { shape }) => sum + volume(shape), 0),
  };
  disposeOf(expected);
  return result;
}

export type TensorAndDataResult = Record<"shard" | "replicate" | "four" | "fourNorms", Laid>;

await asRank<TensorAndDataResult>(async (world) => ({
  shard: await withData(world, "shard"),
  replicate: await withData(world, "replicate"),
  four: await fourWays(world),
  fourNorms: await fourWays(world, { architecture: "Qwen3ForCausalLM" }),
}));
