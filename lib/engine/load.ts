import { StableDiffCoder } from "../model/index.js";
import * as torch from "../torch/index.js";
import { EngineError } from "./errors.js";
import { quantiseWeights } from "./int8.js";
import type { EngineSettings } from "./options.js";

/**
 * Loads a checkpoint as the settings say.
 *
 * @throws EngineError ENGINE_MODEL
 */
export async function loadModel(folder: string, settings: EngineSettings): Promise<StableDiffCoder> {
  const { device, dtype, threads, weights } = settings;
  if (threads !== undefined) torch.setNumThreads(threads);
  try {
    const coder = await StableDiffCoder.fromPretrained(folder, { device, dtype });
    if (weights === "int8") quantiseWeights(coder.model);
    return coder;
  } catch (error) {
    if (error instanceof EngineError) throw error;
    const message = error instanceof Error ? error.message : String(error);
    throw new EngineError("ENGINE_MODEL", `cannot load ${folder}: ${message}`, { cause: error });
  }
}
