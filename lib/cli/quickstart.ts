import { Command, InvalidArgumentError } from "commander";
import { deviceOption, integer, renamedFlag } from "./options.js";
import type { QuickstartSteps } from "./quickstart/curriculum.js";

export interface QuickstartOptions {
  minutes: number;
  steps?: QuickstartSteps;
  data?: string[];
  outputDir: string;
  seed: number;
  device: string;
}

function minutes(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !(value >= 0.1 && value <= 100_000)) {
    throw new InvalidArgumentError("expected a number of minutes from 0.1");
  }
  return value;
}

function steps(text: string): QuickstartSteps {
  const [compress, cpt, anneal, ...more] = text.split(",").map(Number);
  if (more.length > 0 || ![compress, cpt, anneal].every((value) => Number.isInteger(value) && value > 0)) {
    throw new InvalidArgumentError('expected three positive integers, such as "800,300,200"');
  }
  return { compress, cpt, anneal };
}

/** `diffcoder quickstart`, which `npm start` runs. */
export function quickstartCommand(): Command {
  return new Command("quickstart")
    .summary("train a small model on this machine's code through the whole curriculum, and try it")
    .description(
      "Trains a small Stable-DiffCoder on the code that this machine has anyway, through the whole curriculum: AR, its " +
        "pre-anneal checkpoint, block diffusion with mask-ratio warmup and clipped noise, anneal. Then measures and tries it.",
    )
    .option("--minutes <n>", "time for everything", minutes, 7.5)
    .option("--steps <ar,cpt,anneal>", "steps of the three stages, instead of a time: repeats a run exactly", steps)
    .option("--data <path...>", "folders or files of code; default: node_modules and Python's standard library")
    .option(
      "--output-dir <folder>",
      "where the run goes; a run that is there moves to FOLDER.previous",
      "runs/quickstart",
    )
    .option("--seed <n>", "random seed of the weights, the data order and the corruption", integer(0), 0)
    .addOption(deviceOption("cpu"))
    .addOption(renamedFlag("--out [folder]", "--output-dir"))
    .action(async (options: QuickstartOptions) => {
      const { quickstart } = await import("./quickstart/run.js");
      await quickstart(options);
    });
}
