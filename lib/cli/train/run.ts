import { basename, extname, join, resolve } from "node:path";
import colors from "picocolors";
import { holdsRun, StableDiffCoder } from "../../checkpoint/index.js";
import { type CorpusSummary, formatSummary, type SftSummary } from "../../data/index.js";
import { destroyProcessGroup, readLaunchEnvironment, world } from "../../distributed/index.js";
import {
  defaultSinks,
  loadCurriculum,
  type Sink,
  type Stage,
  TrainError,
  type TrainingJob,
  tensorboard,
  terminal,
  wandb,
} from "../../train/index.js";
import { type TrainOptions, trainOptionsSchema, trainRunSchema } from "../command-options.js";
import { CliError } from "../errors.js";
import { shownFlags } from "../flags.js";
import { interruptible, progressLine, shownCommand, shownPath, shownSummary } from "../terminal.js";

/** Runs a curriculum file. */
export async function train(file: string, options: TrainOptions): Promise<void> {
  if (options.run.resume && options.run.overwrite) throw new CliError("give --resume or --overwrite, not both");
  const isMain = (readLaunchEnvironment()?.rank ?? 0) === 0;
  if (!isMain) options.quiet = true; // only rank 0 prints
  process.setSourceMapsEnabled(true); // so that errors in the user's file have the right line
  await interruptible(
    "Stopping after this step and saving. Press Ctrl-C again to exit immediately.",
    async (signal) => {
      const { model } = options;
      const { device, seed } = options.run;
      const chosen = chosenSinks(options); // before anything is read, because their packages may be missing
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
  const { quiet } = options;
  const outputDir = outputDirOf(file, options, job.run.outputDir);
  const isMain = (world()?.rank ?? 0) === 0;
  const parallel = { ...job.run.parallel, ...options.run.parallel };
  const settings = { ...job.run, ...options.run, outputDir, parallel };
  const sinks = [...defaultSinks(outputDir), quiet ? warnings() : terminal(), ...chosen, ...(job.sinks ?? [])];
  if (!quiet) for (const text of dataSummaries(curriculum.stages)) process.stderr.write(`${text}\n`);
  try {
    for await (const event of curriculum.run({ ...settings, model, signal, sinks })) {
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

/** The sink with --quiet, which prints only warnings: otherwise problems would go unnoticed. */
function warnings(): Sink {
  return {
    name: "standard error",
    write(event) {
      if (event.type === "warning") process.stderr.write(`${colors.yellow(`warning: ${event.message}`)}\n`);
    },
  };
}

/** The sinks selected by flags. */
function chosenSinks(options: TrainOptions): Sink[] {
  const { tensorboardDir: folder, wandb: project, quiet } = options;
  const onUrl = quiet ? undefined : (url: string) => process.stderr.write(`Weights & Biases: ${url}\n`);
  const onFolder = (path: string) => {
    if (!quiet) process.stderr.write(`Weights & Biases, offline: wandb sync ${shownPath(path)}\n`);
  };
  return [
    ...(options.tensorboard || folder !== undefined ? [tensorboard(folder && resolve(folder))] : []),
    ...(project === undefined ? [] : [wandb({ project, onUrl, onFolder })]),
  ];
}

/** The folder of the run: from the command line, from the file, or named after the file. */
function outputDirOf(file: string, options: TrainOptions, ofFile: string | undefined): string {
  return resolve(options.run.outputDir ?? ofFile ?? join("runs", basename(file, extname(file))));
}

/** Rejects an existing run before data is prepared, which may take hours. The run checks again when it starts. */
function refuseExistingRun(outputDir: string, { run }: TrainOptions): void {
  if (!run.resume && !run.overwrite && holdsRun(outputDir)) throw runExists(outputDir);
}

/** Converts the library's option names in an error to flags. */
function inWordsOfTheCommand(error: unknown, outputDir: string): unknown {
  if (!(error instanceof TrainError) || error.code !== "TRAIN_RUN_EXISTS") return error;
  return runExists(outputDir, error);
}

function runExists(outputDir: string, cause?: unknown): CliError {
  const hint = "--resume continues it, --overwrite starts over, --output-dir FOLDER uses another folder";
  return new CliError(`${shownPath(outputDir)} already holds a run: ${hint}`, { cause });
}

/** All processes leave together, because rank 0 serves the store. */
async function leave(): Promise<void> {
  await world()?.control.barrier();
  await destroyProcessGroup();
}

function sayStopped(file: string, { run, quiet, ...options }: TrainOptions): void {
  const again = { ...run, resume: true, overwrite: undefined };
  const given = Object.entries(options).filter(([, value]) => value !== false);
  const flags = [...shownFlags(trainOptionsSchema, Object.fromEntries(given)), ...shownFlags(trainRunSchema, again)];
  say("To resume:", shownCommand("npx", "diffcoder", "train", file, ...flags));
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

/** Summaries of a curriculum's data and of skipped files, once per source. Data without a summary is left out. */
export function dataSummaries(stages: readonly Stage[]): string[] {
  const summaries = new Map<unknown, string>();
  for (const { name, data } of stages) {
    const summary = summaryOf(data);
    if (summary === undefined || summaries.has(summary)) continue;
    const text = "rows" in summary ? formatSftSummary(summary) : shownSummary(formatSummary(summary));
    summaries.set(summary, `data, starting with stage '${name}': ${text.replaceAll("\n", "\n  ")}`);
  }
  const texts = [...summaries.values()];
  return texts.length === 1 ? texts.map((text) => text.replace(/^data, starting with stage '.*?': /, "data: ")) : texts;
}

/** The summary of a stage's data, which may be a dataset, a loader or the result of prepareData. */
function summaryOf(data: unknown): CorpusSummary | SftSummary | undefined {
  const { summary, dataset, loader } = data as { summary?: object; dataset?: unknown; loader?: unknown };
  if (summary !== undefined && ("documents" in summary || "rows" in summary)) return summary as CorpusSummary;
  const inner = dataset ?? loader;
  return inner === undefined ? undefined : summaryOf(inner);
}

function formatSftSummary(summary: SftSummary): string {
  const { samples, rows, answerTokens, tokens, truncated, unread, skipped, examples } = summary;
  const count = (value: number) => value.toLocaleString("en-US");
  const lines = [
    `${count(samples)} samples in ${count(rows)} rows, ${count(answerTokens)} of ${count(tokens)} tokens are answers`,
  ];
  if (truncated > 0) lines.push(`truncated at the end of a row: ${count(truncated)}`);
  const fields = Object.entries(unread).map(([field, number]) => `${field} (${count(number)})`);
  if (fields.length > 0) lines.push(`in no sample: the fields ${fields.join(", ")}`);
  const reasons = Object.entries(skipped).map(
    ([reason, number]) => `${count(number)} ${reason} (${examples[reason as keyof typeof examples]?.join(", ")})`,
  );
  if (reasons.length > 0) lines.push(`skipped: ${reasons.join(", ")}`);
  return lines.join("\n");
}
