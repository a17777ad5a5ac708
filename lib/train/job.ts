import type { StableDiffCoder } from "../checkpoint/index.js";
import type { Decoder } from "../model/index.js";
import type { Curriculum } from "./curriculum.js";
import type { RunOptions } from "./run-options.js";
import type { Sink } from "./sinks/sink.js";

/** All that a training run needs, as a curriculum file describes it: `curriculum.run({ ...run, model })`. */
export interface TrainingJob {
  curriculum: Curriculum;
  model: StableDiffCoder | Decoder;
  run: Omit<RunOptions, "model" | "signal" | "sinks">;
  /** What the file asks for beside metrics.jsonl and report.html. */
  sinks?: Sink[];
}
