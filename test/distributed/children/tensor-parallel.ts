import { communication, type ProcessGroup } from "../../../lib/distributed/index.js";
import { generateBlocks } from "../../../lib/engine/index.js";
import { causalPlan, type DecoderConfigInput } from "../../../lib/model/index.js";
import { tensorParallel } from "../../../lib/parallel/tensor.js";
import * as torch from "../../../lib/torch/index.js";
import { asRank } from "../rank.js";
import {
  alone,
  autoregressive,
  blockDiffusion,
  checkpointLayers,
  decoder,
  disposeOf,
  type GradientError,
  gradientError,
  LENGTH,
  type Loss,
  sequence,
  wholeParts,
  withAutocast,
} from "./split-decoder.js";

interface Case {
  loss: Loss;
  config?: Partial<DecoderConfigInput>;
  checkpointed?: boolean;
}

type Precision = "float32" | "float64" | "bfloat16 autocast";

/** What a rank found out about one case. */
export interface Found {
  lossError: number;
  gradientError: GradientError;
  /** Gradients of what is not split. */
  sharedGradients: number[];
  copies: Record<string, number>;
  owned: string[];
  /** By the split, of this process's tensors. */
  bytesFreed: number;
  /** Of each parameter, in one process and here. */
  elements: [whole: number, here: number][];
  /** Collectives of one forward and backward. */
  calls: number;
  /** What those leave behind but for the gradients, which no handle names. */
  tensorsLeft: number;
}

const qwen = { architecture: "Qwen2ForCausalLM", attentionBias: "qkv" } as const;
const qwen3 = { architecture: "Qwen3ForCausalLM", headDim: 12 } as const;
export const cases = {
  "block diffusion": { loss: blockDiffusion },
  "block diffusion, checkpointed, tied, odd vocabulary": {
    loss: blockDiffusion,
    config: { tieWordEmbeddings: true, vocabSize: 49 },
    checkpointed: true,
  },
  autoregressive: { loss: autoregressive, config: { vocabSize: 51 } },
  "autoregressive, checkpointed, biases on q, k and v": { loss: autoregressive, config: qwen, checkpointed: true },
  "block diffusion, biases on q, k, v and o, tied": {
    loss: blockDiffusion,
    config: { attentionBias: "qkvo", tieWordEmbeddings: true },
  },
  "one key/value head for two ranks": { loss: blockDiffusion, config: { ...qwen, numKeyValueHeads: 1 } },
  "norms of q and k": { loss: blockDiffusion, config: qwen3 },
  "norms of q and k, checkpointed": { loss: autoregressive, config: qwen3, checkpointed: true },
  "norms of q and k, one key/value head for two ranks": {
    loss: blockDiffusion,
    config: { ...qwen3, headDim: 8, numKeyValueHeads: 1 },
  },
} satisfies Record<string, Case>;

const INDICES = [0, 1];

function runCase({ loss, config, checkpointed = false }: Case, precision: Precision, group: ProcessGroup): Found {
  const dtype = precision === "float64" ? precision : "float32";
  const reference = decoder(config, dtype);
  const expected = alone(reference, loss, INDICES);
  reference.dispose();

  const model = decoder(config, dtype);
  const bytesBefore = torch.memory().host;
  const split = tensorParallel(model, group);
  const bytesFreed = bytesBefore - torch.memory().host;
  if (checkpointed) checkpointLayers(model);
  const before = { calls: communication.calls, tensors: torch.memory().tensors };
  const value = torch.scope(() => {
    const total = withAutocast(precision === "bfloat16 autocast", () => loss(model, INDICES));
    total.backward();
    return total.item();
  });
  const calls = communication.calls - before.calls;
  const tensorsLeft = torch.memory().tensors - before.tensors;
  const parameters = [...model.namedParameters()];
  const found: Found = torch.scope(() => ({
    lossError: Math.abs(value / expected.loss - 1),
    gradientError: gradientError(split.compose(wholeParts(model)), expected),
    sharedGradients: parameters
      .filter(([name]) => !split.isSplit(name))
      .flatMap(([, tensor]) => Array.from((tensor.grad as torch.Tensor).toTypedArray() as Float32Array)),
    copies: Object.fromEntries(parameters.map(([name]) => [name, split.copies(name)])),
    owned: [...split.placements].filter(([, { owned }]) => owned).map(([name]) => name),
    bytesFreed,
    elements: parameters.map(([name, tensor]) => [expected.gradients.get(name)?.numel() ?? 0, tensor.numel()]),
    calls,
    tensorsLeft,
  }));
  model.dispose();
  disposeOf(expected);
  return found;
}

/** How far one process alone is from float32 under autocast. */
function autocastError({ loss, config }: Case): GradientError {
  const [exact, rough] = [decoder(config), decoder(config)];
  const expected = alone(exact, loss, INDICES);
  disposeOf(alone(rough, loss, INDICES, true));
  return torch.scope(() => gradientError(wholeParts(rough), expected));
}

/** Logits, and tokens that a sampler makes of them, with one process and with all. */
async function generation(group: ProcessGroup, config: Partial<DecoderConfigInput> = {}) {
  const model = decoder({ vocabSize: 51, ...config });
  const prompt = sequence(3, 51).slice(0, 5);
  const logits = () =>
    torch.scope(() =>
      torch.noGrad(() => {
        const ids = torch
          .tensor([...sequence(2, 51)])
          .long()
          .view([1, LENGTH]);
        return torch.keep(model.logits(model.forward(ids, causalPlan(LENGTH))));
      }),
    );
  const generate = async () => {
    const ids: number[] = [];
    for await (const event of generateBlocks(model, prompt, { blockSize: 4, maxTokens: 9 })) {
      if (event.type === "text") ids.push(...event.ids);
    }
    return ids;
  };
  const expected = { logits: logits(), ids: await generate() };
  tensorParallel(model, group);
  const made = { logits: logits(), ids: await generate() };
  let headWeight = "";
  try {
    headWeight = `given: ${model.headWeight.shape}`;
  } catch (error) {
    headWeight = `${(error as { code: string }).code}: ${(error as Error).message}`;
  }
  return {
    shape: made.logits.shape,
    error: made.logits.sub(expected.logits).abs().amax().item(),
    ids: made.ids,
    expectedIds: expected.ids,
    headWeight,
  };
}

export interface TensorParallelResult {
  cases: Record<keyof typeof cases, Record<"float32" | "float64", Found>>;
  autocast: { alone: GradientError; split: Found };
  generation: Record<"llama" | "qwen3", Awaited<ReturnType<typeof generation>>>;
}

await asRank<TensorParallelResult>(async ({ group }) => {
  const both = (one: Case) => ({ float32: runCase(one, "float32", group), float64: runCase(one, "float64", group) });
  const autocast = cases["block diffusion, checkpointed, tied, odd vocabulary"];
  return {
    cases: Object.fromEntries(Object.entries(cases).map(([name, one]) => [name, both(one)])) as never,
    autocast: { alone: autocastError(autocast), split: runCase(autocast, "bfloat16 autocast", group) },
    generation: { llama: await generation(group), qwen3: await generation(group, qwen3) },
  };
});
