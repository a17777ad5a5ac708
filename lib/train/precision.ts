import { readFileSync } from "node:fs";
import * as torch from "../torch/index.js";

/**
 * Dtype of the forward pass, under autocast. "auto" is bfloat16 on a device with bfloat16 arithmetic, else float32.
 */
export type Precision = "auto" | "float32" | "bfloat16";

/** Resolves "auto" for a device. Weights, gradients and optimizer state keep the model's dtype. */
export function resolvePrecision(precision: Precision, device: string): Exclude<Precision, "auto"> {
  if (precision !== "auto") return precision;
  const fast = device.startsWith("cuda") ? cudaHasBfloat16(device) : cpuHasBfloat16();
  return fast ? "bfloat16" : "float32";
}

/**
 * Whether the GPU's tensor cores multiply bfloat16 matrices: from compute capability 8.0 (Ampere) on.
 *
 * @param device "cuda" or "cuda:NUMBER"
 */
function cudaHasBfloat16(device: string): boolean {
  const index = Number(device.split(":")[1] ?? 0);
  return Number(torch.cuda.deviceProperties(index).major) >= 8;
}

let cpuAnswer: boolean | undefined;

/**
 * Whether the CPU multiplies bfloat16 matrices (AVX512_BF16, AMX; BF16 on ARM). With these instructions bfloat16 is
 * about four times as fast as float32, without them it is slower. Detected on Linux only; elsewhere the result is
 * false.
 */
export function cpuHasBfloat16(): boolean {
  cpuAnswer ??= readCpuFlags().some((flag) => ["avx512_bf16", "amx_bf16", "bf16"].includes(flag));
  return cpuAnswer;
}

function readCpuFlags(): string[] {
  try {
    const line = readFileSync("/proc/cpuinfo", "utf8").match(/^(?:flags|Features)\s*:(.*)$/m);
    return line ? line[1].trim().split(/\s+/) : [];
  } catch {
    return [];
  }
}
