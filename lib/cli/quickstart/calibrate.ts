import { StableDiffCoder } from "../../checkpoint/index.js";
import type { PreparedData } from "../../data/index.js";
import type { Tokenizer } from "../../tokenizer/index.js";
import { Curriculum } from "../../train/index.js";
import { quickstartStages } from "./curriculum.js";

const WARM = 2; // the first steps also allocate and, in bfloat16, pack weights
const TIMED = 4;

/**
 * Seconds of one AR and one diffusion step on this machine, on a model that is thrown away. The number of steps then
 * follows, so that schedules know their end and a run can be repeated with the steps it printed.
 */
export async function calibrate(
  data: PreparedData,
  tokenizer: Tokenizer,
  options: { device: string; signal: AbortSignal },
): Promise<{ ar: number; diffusion: number }> {
  const steps = { compress: WARM + TIMED, cpt: WARM + TIMED, anneal: 1 };
  using coder = StableDiffCoder.fromConfig("tiny", { tokenizer });
  const seconds: Record<string, number[]> = { compress: [], cpt: [], anneal: [] };
  let before = performance.now();
  for await (const event of new Curriculum(quickstartStages(data, steps)).run({ model: coder, ...options })) {
    const now = performance.now();
    if (event.type === "step" && event.step > WARM) seconds[event.name].push((now - before) / 1000);
    before = performance.now();
  }
  options.signal.throwIfAborted();
  return { ar: median(seconds.compress), diffusion: median(seconds.cpt) };
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}
