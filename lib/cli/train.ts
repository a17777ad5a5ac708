import { join, relative, resolve } from "node:path";
import { Command, InvalidArgumentError } from "commander";
import {
  defaultSinks,
  interruptSignal,
  type LoadCurriculumOptions,
  loadCurriculum,
  terminal,
} from "../train/index.js";

interface TrainOptions extends Pick<LoadCurriculumOptions, "device" | "model" | "seed"> {
  out?: string;
  resume?: boolean;
  overwrite?: boolean;
}

function seed(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isSafeInteger(value) || value < 0)
    throw new InvalidArgumentError("an integer from 0");
  return value;
}

/** `diffcoder train CURRICULUM` */
export function trainCommand(): Command {
  return new Command("train")
    .description(
      "Run a curriculum from a .ts or .yaml file. Ctrl-C ends after the step at hand and saves; --resume goes on from there.",
    )
    .argument("<curriculum>", "a file that exports `curriculum` and `model`, or a recipe in YAML")
    .option("--out <folder>", "where checkpoints, metrics.jsonl and report.html go; default: the file's, or runs/NAME")
    .option("--model <folder>", "a checkpoint to start from, instead of the file's model")
    .option("--device <device>", '"cpu", "cuda" or "cuda:1"; default: the file\'s, or the CPU')
    .option("--seed <n>", "of data order and corruption; default: the file's", seed)
    .option("--resume", "go on from the folder's newest whole checkpoint")
    .option("--overwrite", "begin anew in a folder that holds a run, whose checkpoints are removed")
    .action(train);
}

async function train(file: string, options: TrainOptions): Promise<void> {
  using interrupt = interruptSignal();
  const { signal } = interrupt;
  const { device, model: start, resume = false, overwrite = false } = options;
  const { curriculum, model, run } = await loadCurriculum(file, { device, model: start, seed: options.seed, signal });
  const out = resolve(options.out ?? run.out ?? join("runs", nameOf(file)));
  const sinks = [...defaultSinks(out), terminal()];
  for await (const event of curriculum.run({ ...run, model, out, resume, overwrite, signal, sinks })) {
    if (event.type === "aborted") {
      const again = `npx diffcoder train ${file}${options.out === undefined ? "" : ` --out ${options.out}`} --resume`;
      process.stdout.write(`stopped after step ${event.globalStep}; to go on: ${again}\n`);
      process.exitCode = 130;
    } else if (event.type === "done") sayWhatNext(out, curriculum.stages.at(-1)?.checkpoint);
  }
}

/** The run's name, from the file's. */
function nameOf(file: string): string {
  return (file.split(/[\\/]/).at(-1) as string).replace(/\.[^.]+$/, "");
}

function sayWhatNext(out: string, checkpoint: string | undefined): void {
  const folder = relative(".", out) || ".";
  process.stdout.write(`done: the report is ${join(folder, "report.html")}\n`);
  const model = join(folder, "checkpoints", checkpoint ?? "NAME");
  process.stdout.write(`try it: npx diffcoder generate ${model} "def main("\n`);
}
