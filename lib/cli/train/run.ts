import { basename, extname, join, resolve } from "node:path";
import colors from "picocolors";
import { holdsRun, StableDiffCoder } from "../../checkpoint/index.js";
import { destroyProcessGroup, readLaunchEnvironment, world } from "../../distributed/index.js";
import {
  defaultSinks,
  loadCurriculum,
  type Sink,
  TrainError,
  type TrainingJob,
  tensorboard,
  terminal,
  wandb,
} from "../../train/index.js";
import { CliError } from "../errors.js";
import { interruptible } from "../interruptible.js";
import { progressLine } from "../progress-line.js";
import { shownCommand, shownPath } from "../show.js";
import type { TrainOptions } from "../train.js";
import { dataSummaries } from "./data-summary.js";

/** Runs a curriculum file. */
export async function train(file: string, options: TrainOptions): Promise<void> {
  if (options.resume && options.overwrite) throw new CliError("give --resume or --overwrite, not both");
  const isMain = (readLaunchEnvironment()?.rank ?? 0) === 0;
  if (!isMain) options.quiet = true; // one process speaks for all
  process.setSourceMapsEnabled(true); // an error in the user's file is to name its line
  await interruptible(
    "Stopping after this step and saving. Press Ctrl-C again to exit immediately.",
    async (signal) => {
      const { device, model, seed } = options;
      const chosen = chosenSinks(options); // before anything is read: what they need may be missing
      if (!options.quiet) process.stderr.write(`reading ${file}\n`);
      if (options.cacheDir !== undefined) process.env.DIFFCODER_CACHE = resolve(options.cacheDir);
      const job = await loadCurriculum(file, {
        device,
        model,
        seed,
        signal,
        cache: options.cacheDir,
        beforeData: isMain
          ? ({ outputDir }) => refuseExistingRun(outputDirOf(file, options, outputDir), options)
          : undefined,
        onProgress: isMain ? progressLine() : undefined,
      });
      try {
        await run(file, job, options, chosen, signal);
      } finally {
        job.model.dispose();
      }
      await leave();
    },
  );
}

async function run(
  file: string,
  job: TrainingJob,
  options: TrainOptions,
  chosen: readonly Sink[],
  signal: AbortSignal,
): Promise<void> {
  const { curriculum, model } = job;
  const { resume = false, overwrite = false, quiet = false } = options;
  const outputDir = outputDirOf(file, options, job.run.outputDir);
  const isMain = (world()?.rank ?? 0) === 0;
  const parallel = { ...job.run.parallel, ...options.parallel };
  const sinks = [...defaultSinks(outputDir), quiet ? warnings() : terminal(), ...chosen, ...(job.sinks ?? [])];
  if (!quiet) for (const text of dataSummaries(curriculum.stages)) process.stderr.write(`${text}\n`);
  try {
    for await (const event of curriculum.run({
      ...job.run,
      model,
      outputDir,
      parallel,
      resume,
      overwrite,
      signal,
      sinks,
    })) {
      if (event.type === "aborted") {
        // Schedulers preempt with SIGTERM: exit with 0, because the checkpoint was saved.
        process.exitCode = /SIGINT/.test(String(signal.reason)) ? 130 : 0;
        if (isMain) sayStopped(file, options);
      } else if (event.type === "done" && isMain) {
        sayWhatNext(outputDir, job);
      }
    }
  } catch (error) {
    throw inWordsOfTheCommand(error, outputDir);
  }
}

/** What --quiet leaves of the terminal: whatever else is wrong is nowhere to be seen until it is too late. */
function warnings(): Sink {
  return {
    name: "standard error",
    write(event) {
      if (event.type === "warning") process.stderr.write(`${colors.yellow(`warning: ${event.message}`)}\n`);
    },
  };
}

/** Those that flags ask for. */
function chosenSinks(options: TrainOptions): Sink[] {
  const { tensorboardDir: folder, wandb: project, quiet = false } = options;
  const onUrl = quiet ? undefined : (url: string) => process.stderr.write(`Weights & Biases: ${url}\n`);
  const onFolder = (path: string) => {
    if (!quiet) process.stderr.write(`Weights & Biases, offline: wandb sync ${shownPath(path)}\n`);
  };
  return [
    ...(options.tensorboard || folder !== undefined ? [tensorboard(folder && resolve(folder))] : []),
    ...(project === undefined ? [] : [wandb({ project, onUrl, onFolder })]),
  ];
}

/** The run's folder: the command's, the file's, or one named after the file. */
function outputDirOf(file: string, options: TrainOptions, ofFile: string | undefined): string {
  return resolve(options.outputDir ?? ofFile ?? join("runs", basename(file, extname(file))));
}

/** Before data is prepared, which may take hours. The run looks again when it begins. */
function refuseExistingRun(outputDir: string, { resume, overwrite }: TrainOptions): void {
  if (!resume && !overwrite && holdsRun(outputDir)) throw runExists(outputDir);
}

/** The library names its own options; here they are flags. */
function inWordsOfTheCommand(error: unknown, outputDir: string): unknown {
  if (!(error instanceof TrainError) || error.code !== "TRAIN_RUN_EXISTS") return error;
  return runExists(outputDir, error);
}

function runExists(outputDir: string, cause?: unknown): CliError {
  const hint = "--resume goes on with it, --overwrite begins anew, --output-dir FOLDER goes elsewhere";
  return new CliError(`${shownPath(outputDir)} holds a run already: ${hint}`, { cause });
}

/** All processes go together: the store is rank 0's. */
async function leave(): Promise<void> {
  await world()?.control.barrier();
  await destroyProcessGroup();
}

function sayStopped(file: string, options: TrainOptions): void {
  const { outputDir, model, device, seed, cacheDir, tensorboard, tensorboardDir, wandb, parallel } = options;
  const given = {
    ...{ "--output-dir": outputDir, "--model": model, "--device": device, "--seed": seed, "--cache-dir": cacheDir },
    ...{ "--tensorboard-dir": tensorboardDir, "--wandb": wandb },
  };
  const flags = Object.entries(given).flatMap(([flag, value]) => (value === undefined ? [] : [flag, String(value)]));
  if (tensorboard) flags.push("--tensorboard");
  if (parallel)
    flags.push(
      "--parallel",
      Object.entries(parallel)
        .map((pair) => pair.join("="))
        .join(","),
    );
  say("To go on:", shownCommand("npx", "diffcoder", "train", file, ...flags, "--resume"));
}

function sayWhatNext(outputDir: string, { curriculum, model }: TrainingJob): void {
  const last = curriculum.stages.at(-1);
  const checkpoint = shownPath(join(outputDir, "checkpoints", last?.checkpoint ?? "final"));
  say("The report:", shownPath(join(outputDir, "report.html")));
  say("The model:", checkpoint);
  if (!(model instanceof StableDiffCoder) || !model.hasTokenizer) return;
  const chats = last?.kind === "supervised" && model.tokenizer.hasChatTemplate;
  const prompt = chats ? ["--chat", "Write a Python function that adds two numbers."] : ["def main("];
  say("Try it:", shownCommand("npx", "diffcoder", "generate", checkpoint, ...prompt));
}

function say(label: string, text: string): void {
  process.stdout.write(`${colors.bold(label.padEnd(11))} ${text}\n`);
}
