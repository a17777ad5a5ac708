import type { DecoderConfig } from "../model/config.js";
import { DiffusionError } from "./errors.js";

/**
 * The id of the mask token: the one given, else the model's.
 *
 * @throws DiffusionError DIFFUSION_OPTIONS when there is none, or it is outside the vocabulary
 */
export function resolveMaskId(config: Pick<DecoderConfig, "maskTokenId" | "vocabSize">, given?: number): number {
  const id = given ?? config.maskTokenId;
  if (id === null) {
    throw new DiffusionError("DIFFUSION_OPTIONS", "no mask token: give maskId, or maskTokenId in the model's config");
  }
  if (!Number.isInteger(id) || id < 0 || id >= config.vocabSize) {
    throw new DiffusionError("DIFFUSION_OPTIONS", `maskId ${id} is outside the vocabulary of ${config.vocabSize}`);
  }
  return id;
}

/** The ids that end a text: the ones given, else the model's end token or tokens, else none. */
export function resolveStopIds(
  config: Pick<DecoderConfig, "eosTokenId">,
  given?: readonly number[],
): ReadonlySet<number> {
  return new Set(given ?? [config.eosTokenId ?? []].flat());
}
