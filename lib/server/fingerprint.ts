import { createHash } from "node:crypto";
import type { ModelFacts } from "../engine/index.js";

/**
 * OpenAI's `system_fingerprint`: what besides the request decides a text. Equal requests with a seed and equal
 * fingerprints give equal texts.
 */
export function systemFingerprint(facts: ModelFacts, tokenizerHash: string, version: string): string {
  const { vocabSize, parameters, maxLength, maskId, dtype, device, quantization, blockSize } = facts;
  const weights = quantization ?? "full";
  const kind = device.replace(/:\d+$/, "");
  const what = [version, tokenizerHash, vocabSize, parameters, maxLength, maskId, dtype, kind, weights, blockSize];
  return `fp_${createHash("sha256").update(JSON.stringify(what)).digest("hex").slice(0, 12)}`;
}
