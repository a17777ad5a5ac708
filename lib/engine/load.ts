import { StableDiffCoder } from "../checkpoint/index.js";
import { messageOf } from "../torch/errors.js";
import * as torch from "../torch/index.js";
import { EngineError } from "./errors.js";
import { quantizeWeights } from "./int8.js";
import type { EngineSettings } from "./options.js";

/** A model with all that was made for it. */
export interface LoadedModel {
  coder: StableDiffCoder;
  dispose(): void;
}

/**
 * Loads a checkpoint as the settings say.
 *
 * @throws EngineError ENGINE_MODEL, ENGINE_OPTIONS
 */
export async function loadModel(folder: string, settings: EngineSettings): Promise<LoadedModel> {
  const { device, dtype, threads, quantization } = settings;
  if (threads !== undefined) torch.setNumThreads(threads);
  let coder: StableDiffCoder | undefined;
  try {
    const loaded = await StableDiffCoder.fromPretrained(folder, { device, dtype });
    coder = loaded;
    const disposeInt8 = quantization === "int8" ? quantizeWeights(loaded.model) : () => {};
    const dispose = () => {
      disposeInt8();
      loaded.dispose();
    };
    return { coder: loaded, dispose };
  } catch (error) {
    coder?.dispose();
    if (error instanceof EngineError) throw error;
    const message = messageOf(error);
    throw new EngineError("ENGINE_MODEL", `cannot load ${folder}: ${message}`, { cause: error });
  }
}
