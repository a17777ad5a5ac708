import { basename, extname, join, resolve } from "node:path";
import colors from "picocolors";
import { StableDiffCoder, type Tokenizer } from "../../model/index.js";
import { defaultSinks, loadCurriculum, TrainError, type TrainingJob, terminal } from "../../train/index.js";
import { CliError } from "../errors.js";
import { interruptible } from "../interruptible.js";
import { progressLine } from "../progress-line.js";
import { shownCommand, shownPath } from "../show.js";
import type { TrainOptions } from "../train.js";
import { dataSummaries } from "./data-summary.js";

/** Runs a curriculum file. */
export async function train(file: string, options: TrainOptions): Promise<void> {
  if (options.resume && options.overwrite) throw new CliError("give --resume or --overwrite, not both");
  process.setSourceMapsEnabled(true); // an error in the user's file is to name its line
  await interruptible("Stopping after this step and saving. Once more ends at once.", async (signal) => {
    const { device, model, seed } = options;
    if (!options.quiet) process.stderr.write(`reading ${file}\n`);
    const job = await loadCurriculum(file, { device, model, seed, signal, onProgress: progressLine() });
    try {
      await run(file, job, options, signal);
    } finally {
      job.model.dispose();
    }
  });
}

async function run(file: string, job: TrainingJob, options: TrainOptions, signal: AbortSignal): Promise<void> {
  const { curriculum, model } = job;
  const { resume = false, overwrite = false, quiet = false } = options;
  const out = resolve(options.out ?? job.run.out ?? join("runs", basename(file, extname(file))));
  const sinks = [...defaultSinks(out), ...(quiet ? [] : [terminal()])];
  if (!quiet) for (const text of dataSummaries(curriculum.stages)) process.stderr.write(`${text}\n`);
  try {
    for await (const event of curriculum.run({ ...job.run, model, out, resume, overwrite, signal, sinks })) {
      if (event.type === "aborted") sayStopped(file, options);
      else if (event.type === "done") sayWhatNext(out, job);
    }
  } catch (error) {
    throw inWordsOfTheCommand(error, out);
  }
}

/** The library names its own options; here they are flags. */
function inWordsOfTheCommand(error: unknown, out: string): unknown {
  if (!(error instanceof TrainError) || error.code !== "TRAIN_RUN_EXISTS") return error;
  const hint = "--resume goes on with it, --overwrite begins anew, --out FOLDER goes elsewhere";
  return new CliError(`${shownPath(out)} holds a run already: ${hint}`, { cause: error });
}

function sayStopped(file: string, { out, model, device, seed }: TrainOptions): void {
  const given = { "--out": out, "--model": model, "--device": device, "--seed": seed };
  const flags = Object.entries(given).flatMap(([flag, value]) => (value === undefined ? [] : [flag, String(value)]));
  say("To go on:", shownCommand("npx", "diffcoder", "train", file, ...flags, "--resume"));
  process.exitCode = 130;
}

function sayWhatNext(out: string, { curriculum, model }: TrainingJob): void {
  const last = curriculum.stages.at(-1);
  const checkpoint = shownPath(join(out, "checkpoints", last?.checkpoint ?? "final"));
  say("The report:", shownPath(join(out, "report.html")));
  say("The model:", checkpoint);
  if (!(model instanceof StableDiffCoder) || !model.hasTokenizer) return;
  const chats = last?.kind === "supervised" && hasChatTemplate(model.tokenizer);
  const prompt = chats ? ["--chat", "Write a Python function that adds two numbers."] : ["def main("];
  say("Try it:", shownCommand("npx", "diffcoder", "generate", checkpoint, ...prompt));
}

function hasChatTemplate(tokenizer: Tokenizer): boolean {
  try {
    return tokenizer.chatTemplate !== undefined;
  } catch {
    return false;
  }
}

function say(label: string, text: string): void {
  process.stdout.write(`${colors.bold(label.padEnd(11))} ${text}\n`);
}
