import * as torch from "../torch/index.js";
import { TrainError } from "./errors.js";
import type { PlannedStage } from "./plan.js";

/**
 * Makes a run one that repeats bit for bit, until it is disposed of: torch.use_deterministic_algorithms, which refuses
 * operators that have no such form, and the settings of the CUDA libraries that it depends on.
 *
 * @throws TrainError TRAIN_OPTIONS naming everything about the run that could not be repeated
 */
export function enforceDeterminism(planned: readonly PlannedStage[], device: string): Disposable {
  const problems: string[] = [];
  for (const { stage } of planned) {
    if ("minutes" in stage.end) problems.push(`stage '${stage.name}' ends by the clock: give steps, tokens or epochs`);
  }
  if (device.startsWith("cuda")) {
    // cuBLAS reads it when it is first used; another value, or none, lets it choose by what memory is free.
    const workspace = process.env.CUBLAS_WORKSPACE_CONFIG;
    if (workspace !== ":4096:8" && workspace !== ":16:8") {
      problems.push(
        `CUBLAS_WORKSPACE_CONFIG is ${workspace ?? "not set"}: start the program with :4096:8 or :16:8 in it`,
      );
    }
  }
  if (problems.length > 0) {
    const list = problems.map((problem) => `  ${problem}`).join("\n");
    throw new TrainError("TRAIN_OPTIONS", `deterministic: this run could not be repeated\n${list}`);
  }
  torch.useDeterministicAlgorithms(true);
  return { [Symbol.dispose]: () => torch.useDeterministicAlgorithms(false) };
}
