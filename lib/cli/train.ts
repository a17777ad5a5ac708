import { Command } from "commander";
import type { ParallelOptions } from "../parallel/index.js";
import { deviceOption, integer, renamedFlag, sizes } from "./options.js";

export interface TrainOptions {
  outputDir?: string;
  model?: string;
  device?: string;
  seed?: number;
  resume?: boolean;
  overwrite?: boolean;
  cacheDir?: string;
  quiet?: boolean;
  parallel?: ParallelOptions;
  tensorboard?: boolean;
  tensorboardDir?: string;
  wandb?: string;
}

/** `diffcoder train CURRICULUM` */
export function trainCommand(): Command {
  const device = deviceOption();
  device.description = `${device.description}; default: the file's, or the CPU`;
  return new Command("train")
    .summary("run a curriculum from a .ts or .yaml file")
    .description(
      "Runs a curriculum from a file in TypeScript, JavaScript or YAML. Ctrl-C ends after the step at hand and saves; " +
        "--resume goes on from there. docs/training.md describes the files.",
    )
    .argument("<curriculum>", "a .ts or .js file that exports `curriculum` and `model`, or a .yaml file")
    .option(
      "--output-dir <folder>",
      "where checkpoints, metrics.jsonl and report.html go; default: the file's, or runs/NAME",
    )
    .option("--model <folder>", "a checkpoint to start from, instead of the file's model")
    .addOption(device)
    .option("--seed <n>", "random seed of the data order and the corruption; default: the file's, or 0", integer(0))
    .option("--resume", "go on from the folder's newest whole checkpoint; begin where there is none")
    .option("--overwrite", "begin anew in a folder that holds a run, whose checkpoints are removed")
    .option(
      "--parallel <sizes>",
      "how the model lies over processes, e.g. shard=4,tensor=2; see docs/distributed.md",
      sizes,
    )
    .option("--cache-dir <folder>", "keep tokens there; default: the file's, DIFFCODER_CACHE, or .cache/data")
    .option("--tensorboard", "write TensorBoard's event files, to OUTPUT_DIR/tensorboard")
    .option("--tensorboard-dir <folder>", "the same, to this folder")
    .option("--wandb <project>", "send the run to Weights & Biases, with the key in WANDB_API_KEY; needs @wandb/sdk")
    .option("-q, --quiet", "show no progress; warnings, errors and what to do next are still printed")
    .addOption(renamedFlag("--out [folder]", "--output-dir"))
    .action(async (curriculum: string, options: TrainOptions) => {
      const { train } = await import("./train/run.js");
      await train(curriculum, options);
    });
}
