import { StableDiffCoder } from "../../lib/checkpoint/index.js";
import { Engine, type EngineEvent, type EngineOptions, type GenerateOptions } from "../../lib/engine/index.js";
import type { DecoderConfigInput } from "../../lib/model/index.js";
import * as torch from "../../lib/torch/index.js";
import { decodeAutoregressive, decodeBlocks } from "../reference/sampler.js";

torch.setNumThreads(1);

export const MASK = 5;
export const TOKENIZER = "assets/tokenizer";

/**
 * A random decoder whose predictions are sharp: with small random weights every token would be as likely as any other, and
 * rounding would choose.
 */
export function sharpCoder(more: Partial<DecoderConfigInput> & { tokenizer?: string } = {}): StableDiffCoder {
  const { tokenizer, ...config } = more;
  const coder = StableDiffCoder.fromConfig(
    {
      vocabSize: 96,
      hiddenSize: 32,
      intermediateSize: 64,
      numLayers: 2,
      numHeads: 4,
      numKeyValueHeads: 2,
      maxPositionEmbeddings: 512,
      maskTokenId: MASK,
      initializerRange: 0.4,
      ...config,
    },
    { seed: 3, tokenizer },
  );
  return coder;
}

export function randomPrompt(seed: number, length: number, vocabulary = 96): number[] {
  const random = new torch.Philox(seed, 77);
  return Array.from({ length }, () => 6 + random.below(vocabulary - 6));
}

export async function here(coder: StableDiffCoder, options: EngineOptions = {}): Promise<Engine> {
  return Engine.create({ model: coder, worker: "none", ...options });
}

export async function collect(
  engine: Engine,
  prompt: string | number[],
  options: GenerateOptions = {},
): Promise<{ events: EngineEvent[]; ids: number[]; text: string }> {
  const events: EngineEvent[] = [];
  for await (const event of engine.generate(prompt, options)) events.push(event);
  const texts = events.filter((event) => event.type === "text");
  return { events, ids: texts.flatMap(({ ids }) => ids), text: texts.map(({ text }) => text).join("") };
}

/** The oracle: no cache, one request. */
export function reference(
  coder: StableDiffCoder,
  prompt: number[],
  { mode, maxTokens = 128, seed = 0, shift, blockSize, commit, ...rest }: GenerateOptions & { shift?: boolean },
): { ids: number[]; commits: number[][] } {
  const options = { ...rest, maxTokens, seed: Number(seed) };
  if (mode === "autoregressive") return decodeAutoregressive(coder.model, prompt, options);
  return decodeBlocks(coder.model, prompt, { ...options, shift, blockSize, commit });
}
