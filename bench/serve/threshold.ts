import { type CommitRule, confidenceThreshold, generateBlocks, staticSchedule, torch } from "stable-diffcoder";
import { StableDiffCoder } from "stable-diffcoder/checkpoint";
import { quantile } from "../shared/harness.js";
import type { BenchModel } from "./models.js";

export interface Threshold {
  value: number;
  /** Tokens that a denoising pass commits at that value. */
  tokensPerPass: number;
}

interface Decoded {
  confidences: number[];
  tokensPerPass: number;
}

/**
 * A threshold that this model reaches, for about `wanted` tokens a pass over this prompt: found among the quantiles of the
 * probabilities it gives, since those of random weights are near 1 / vocabulary. In float32.
 */
export async function reachableThreshold(
  model: BenchModel,
  prompt: readonly number[],
  options: { tokens: number; blockSize: number; threads: number; wanted: number },
): Promise<Threshold> {
  const { tokens, blockSize, threads, wanted } = options;
  const threadsBefore = torch.getNumThreads();
  torch.setNumThreads(threads);
  using coder = await StableDiffCoder.fromPretrained(model.folder, { dtype: "float32" });
  const decode = (commit: CommitRule) => decodeOnce(coder, prompt, { tokens, blockSize, commit });
  try {
    const { confidences } = await decode(staticSchedule({ steps: Math.max(1, Math.floor(blockSize / wanted)) }));
    return await searchThreshold(confidences, wanted, async (value) => {
      const { tokensPerPass } = await decode(confidenceThreshold(value));
      return tokensPerPass;
    });
  } finally {
    torch.setNumThreads(threadsBefore);
  }
}

/**
 * Tries quantiles of `confidences`: in eighths, since random weights fall into loops and a higher threshold need not mean
 * fewer tokens a pass, and then between the two where `wanted` is crossed. The nearest of all is returned, rounded to
 * what a reader can repeat.
 */
export async function searchThreshold(
  confidences: readonly number[],
  wanted: number,
  tokensPerPassAt: (value: number) => Promise<number>,
): Promise<Threshold> {
  const tried: (Threshold & { at: number })[] = [];
  const attempt = async (at: number) => {
    const value = Number(quantile(confidences, at).toPrecision(4));
    const result = { at, value, tokensPerPass: await tokensPerPassAt(value) };
    tried.push(result);
    return result;
  };
  const distance = ({ tokensPerPass }: Threshold) => Math.abs(tokensPerPass - wanted);
  const nearest = () => tried.reduce((best, each) => (distance(each) < distance(best) ? each : best));
  for (let eighth = 1; eighth < 8; eighth++) await attempt(eighth / 8);
  const crossing = tried.findIndex(
    ({ tokensPerPass }, i) => i > 0 && tried[i - 1].tokensPerPass >= wanted && tokensPerPass < wanted,
  );
  let [low, high] = crossing < 0 ? [0, tried[0].at] : [tried[crossing - 1].at, tried[crossing].at];
  for (let tries = 0; tries < 4 && distance(nearest()) >= 0.1; tries++) {
    const { at, tokensPerPass } = await attempt((low + high) / 2);
    if (tokensPerPass > wanted) low = at;
    else high = at;
  }
  const { value, tokensPerPass } = nearest();
  return { value, tokensPerPass };
}

async function decodeOnce(
  coder: StableDiffCoder,
  prompt: readonly number[],
  { tokens, blockSize, commit }: { tokens: number; blockSize: number; commit: CommitRule },
): Promise<Decoded> {
  const confidences: number[] = [];
  let passes = 0;
  let made = 0;
  const settings = { maxTokens: tokens, blockSize, commit, stopTokenIds: [], temperature: 0 };
  for await (const event of generateBlocks(coder.model, prompt, settings)) {
    if (event.type !== "denoise") continue;
    passes++;
    made += event.committed.length;
    confidences.push(...event.committed.map(({ logprob }) => Math.exp(logprob)));
  }
  return { confidences, tokensPerPass: made / passes };
}
