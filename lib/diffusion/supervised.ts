import type { Objective } from "../model/objective.js";
import { type BlockDiffusionOptions, blockDiffusionObjective } from "./block-diffusion.js";
import { DiffusionError } from "./errors.js";

/**
 * Supervised fine-tuning: block diffusion in which only answer tokens are ever masked and give loss. Prompts stay clean
 * in both halves, so a block that holds a prompt's end and an answer's beginning is trained as the sampler meets it.
 * The normaliser counts answer tokens. The 1 to 4 end tokens that the data puts behind an answer belong to it: a block
 * learns to end at any of its places.
 *
 * @throws DiffusionError DIFFUSION_BATCH for a batch without lossMask: all of it would be trained on in silence
 */
export function supervisedObjective(options: BlockDiffusionOptions = {}): Objective {
  const objective = blockDiffusionObjective(options);
  return (model, batch, context) => {
    if (!batch.lossMask) {
      throw new DiffusionError("DIFFUSION_BATCH", "supervised fine-tuning needs a lossMask that marks the answers");
    }
    return objective(model, batch, context);
  };
}
