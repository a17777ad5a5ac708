import { StableDiffCoder } from "../model/index.js";
import * as torch from "../torch/index.js";
import { EngineError } from "./errors.js";
import type { EngineSettings } from "./options.js";

/**
 * Loads a checkpoint as the settings say.
 *
 * @throws EngineError ENGINE_MODEL
 */
export async function loadModel(folder: string, settings: EngineSettings): Promise<StableDiffCoder> {
  const { device, dtype, threads } = settings;
  if (threads !== undefined) torch.setNumThreads(threads);
  try {
    return await StableDiffCoder.fromPretrained(folder, { device, dtype });
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw new EngineError("ENGINE_MODEL", `cannot load ${folder}: ${message}`, { cause: error });
  }
}
