import type { DecoderConfig } from "../model/index.js";
import * as torch from "../torch/index.js";

/**
 * Floating-point operations of training, forward and backward, for each clean token: 6 for every weight a position
 * passes through, and 12 * layers * heads * headDim * length for attention (torchtitan's formula, which counts causal
 * attention as if it were dense).
 *
 * Block diffusion computes two positions for each token, so body and attention count twice. The head counts once for
 * each token whatever is masked: no more than that can give loss. Embedding look-ups are not arithmetic.
 *
 * @param parameters of the whole model, tied ones once
 */
export function flopsPerToken(
  config: DecoderConfig,
  parameters: number,
  length: number,
  positionsPerToken: number,
): number {
  const head = config.vocabSize * config.hiddenSize;
  const body = parameters - head * (config.tieWordEmbeddings ? 1 : 2);
  const attention = 12 * config.numLayers * config.numHeads * config.headDim * length;
  return positionsPerToken * (6 * body + attention) + 6 * head;
}

/** Dense bfloat16 operations a second, by a part of the device's name; the first match counts. From vendors' data sheets. */
const PEAKS: readonly (readonly [RegExp, number])[] = [
  [/A100/, 312e12],
  [/A6000/, 154.85e12],
  [/H100 NVL/, 835e12],
  [/H100 PCIe/, 756e12],
  [/H100|H200|GH200/, 989e12],
  [/H20\b/, 148e12],
  [/B200/, 2250e12],
  [/L40S/, 362e12],
  [/RTX 4090/, 165e12],
];

/** The peak that MFU is measured against; undefined for a CPU or a device that is not in the table. */
export function peakFlops(device: string): number | undefined {
  if (!device.startsWith("cuda")) return undefined;
  const { name } = torch.cuda.deviceProperties(Number(device.split(":")[1] ?? 0));
  return PEAKS.find(([pattern]) => pattern.test(String(name)))?.[1];
}
