import { existsSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import colors from "picocolors";
import { StableDiffCoder } from "../../checkpoint/index.js";
import { formatSummary, prepareData } from "../../data/index.js";
import { CODE_TOKENIZER, Tokenizer } from "../../tokenizer/index.js";
import { Curriculum, defaultSinks, type TrainingSample, terminal } from "../../train/index.js";
import { RunLock } from "../../train/run-lock.js";
import type { QuickstartOptions } from "../command-options.js";
import { type Completion, complete, type Screen } from "../complete.js";
import { CliError } from "../errors.js";
import { interruptible, progressLine, shownCommand, shownPath, shownSummary } from "../terminal.js";
import { BLOCK_SIZE, quickstartStages, stepsFor } from "./curriculum.js";
import {
  autoregressive,
  bound,
  calibrate,
  gzipBitsPerByte,
  heldOutPrompts,
  heldOutText,
  type Prompt,
} from "./measure.js";

const LENGTH = 256;
const NEW_TOKENS = 64;
/** Share of the time that is not training: preparation, evaluation, output. */
const OVERHEAD = { share: 0.12, seconds: 20 };

/** Trains, evaluates and tries a small model. */
export async function quickstart(options: QuickstartOptions): Promise<void> {
  const message = "Stopping and saving. Press Ctrl-C again to exit immediately.";
  await interruptible(message, (signal) => runQuickstart(options, signal));
}

async function runQuickstart(options: QuickstartOptions, signal: AbortSignal): Promise<void> {
  const began = performance.now();
  const outputDir = resolve(options.outputDir);
  const { device } = options;
  await checkRunFolder(outputDir); // checked before the data is read

  heading("Data");
  const tokenizer = Tokenizer.fromPretrained(CODE_TOKENIZER);
  const data = await prepareData(
    { seqLen: LENGTH, ...(options.data && { paths: options.data }), seed: options.seed, fim: { rate: 0.1 } },
    tokenizer,
    { signal, onProgress: progressLine() },
  );
  say(shownSummary(formatSummary(data.summary)));
  if (data.heldOut === undefined) {
    throw new CliError("the text is too small for a held-out part: give more files with --data");
  }

  heading("Training");
  const remaining = options.minutes * 60 * (1 - OVERHEAD.share) - OVERHEAD.seconds - (performance.now() - began) / 1000;
  const planned =
    options.steps ?? stepsFor(Math.max(2, remaining), await calibrate(data, tokenizer, { device, signal }));
  say(`steps: ${planned.compress} AR, ${planned.cpt} + ${planned.anneal} block diffusion (B = ${BLOCK_SIZE})`);
  const previous = await moveAside(outputDir);
  if (previous) say(`the earlier run is now in ${shownPath(previous)}`);
  using coder = StableDiffCoder.fromConfig("tiny", { tokenizer, seed: options.seed, device });
  const prompts = heldOutPrompts(data, tokenizer, 3);
  const write = {
    every: Number.MAX_SAFE_INTEGER, // at the stage's end only
    run: () => Promise.all(prompts.map((prompt) => asSample(coder, prompt, signal))),
  };
  const curriculum = new Curriculum(quickstartStages(data, planned, { sample: write, checkpoint: "final" }));
  const run = curriculum.run({
    model: coder,
    outputDir,
    device,
    seed: options.seed,
    signal,
    sinks: [...defaultSinks(outputDir), terminal()],
  });
  for await (const event of run) {
    if (event.type === "aborted") {
      if (event.checkpoint) sayStopped(event.checkpoint);
      process.exitCode = 130;
      return;
    }
  }

  heading("Held-out text, bits per byte (less is better)");
  const checkpoints = join(outputDir, "checkpoints");
  using preAnneal = await StableDiffCoder.fromPretrained(join(checkpoints, "pre-anneal"), { device });
  const text = heldOutText(data, tokenizer, 64 * LENGTH);
  const ar = await autoregressive(preAnneal, text, { signal });
  const diffusion = await bound(coder, text, { signal });
  say(`${text.bytes.toLocaleString("en-US")} bytes that no stage has seen`);
  row("gzip -9", gzipBitsPerByte(text).toFixed(3));
  row("AR, pre-anneal checkpoint", ar.bitsPerByte.toFixed(3));
  row(
    "block diffusion, final (upper bound)",
    `${diffusion.bitsPerByte.toFixed(3)} ± ${diffusion.standardError.toFixed(3)}`,
  );

  heading("Three held-out beginnings, completed");
  const screen: Screen = { stream: process.stdout, live: process.stdout.isTTY === true, pause: 25 };
  for (const prompt of prompts) {
    say(colors.dim(`── ${prompt.document} ${"─".repeat(Math.max(3, 60 - prompt.document.length))}`));
    const byDiffusion = await completeSurely(coder, prompt, signal, screen);
    signal.throwIfAborted();
    const byAr = await complete(preAnneal, prompt.ids, {
      mode: "autoregressive",
      maxTokens: byDiffusion.tokens,
      stopTokenIds: [],
      signal,
    });
    say(
      colors.dim(
        `block diffusion: ${byDiffusion.tokens} tokens in ${byDiffusion.forwards} forwards; AR: ${byAr.tokens} in ${byAr.forwards}`,
      ),
    );
  }
  sayWhatNext(outputDir, began);
}

/** Completes with the confidence rule, which needs fewer forward passes than tokens. */
function completeSurely(
  coder: StableDiffCoder,
  prompt: Prompt,
  signal: AbortSignal,
  screen?: Screen,
): Promise<Completion> {
  const commit = { rule: "threshold", value: 0.7 } as const;
  const options = { maxTokens: NEW_TOKENS, blockSize: BLOCK_SIZE, commit, stopTokenIds: [], signal };
  return complete(coder, prompt.ids, options, screen);
}

async function asSample(coder: StableDiffCoder, prompt: Prompt, signal: AbortSignal): Promise<TrainingSample> {
  const { text, tokens, forwards } = await completeSurely(coder, prompt, signal);
  return {
    prompt: coder.tokenizer.decode(prompt.ids),
    text,
    note: `${prompt.document}: ${tokens} tokens in ${forwards} forwards`,
  };
}

function sayStopped(checkpoint: string): void {
  say("You can try the model trained so far; npm start starts over:");
  say(`  ${shownCommand("npx", "diffcoder", "generate", shownPath(checkpoint), "def main(")}`);
}

function sayWhatNext(outputDir: string, began: number): void {
  const generate = ["npx", "diffcoder", "generate", shownPath(join(outputDir, "checkpoints", "final")), "def main("];
  heading("Done");
  say(
    `${((performance.now() - began) / 60_000).toFixed(1)} minutes. The report: ${shownPath(join(outputDir, "report.html"))}`,
  );
  heading("What next");
  const commands = [
    ["complete something of your own", shownCommand(...generate)],
    ["the same weights, token by token", shownCommand(...generate, "--autoregressive")],
    ["train longer, on your own code", "npm start -- --minutes 60 --data ../my-project"],
    ["a curriculum with your own objective", "npx diffcoder train examples/custom-curriculum.ts"],
  ];
  for (const [what, command] of commands) say(`  ${colors.dim(`${what}:`.padEnd(38))} ${command}`);
}

function heading(text: string): void {
  process.stdout.write(`\n${colors.bold(text)}\n`);
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

function row(name: string, value: string): void {
  say(`  ${name.padEnd(38)} ${value}`);
}

/**
 * Checks that a folder can be used for a run: it and FOLDER.previous do not exist, are empty or hold an earlier run.
 *
 * @throws CliError naming the folder that holds something else, TrainError TRAIN_RUN_LOCKED for a run in progress
 */
export async function checkRunFolder(folder: string): Promise<void> {
  for (const path of [folder, previousOf(folder)]) {
    if (existsSync(path) && !isRun(path)) {
      throw new CliError(
        `${shownPath(path)} is not an earlier run and will not be replaced: choose another folder with --output-dir`,
      );
    }
  }
  if (existsSync(folder)) (await RunLock.acquire(folder)).release();
}

/**
 * Moves an existing run to `FOLDER.previous`, of which one is kept.
 *
 * @returns the new folder of the old run
 * @throws see {@link checkRunFolder}
 */
export async function moveAside(folder: string): Promise<string | undefined> {
  await checkRunFolder(folder);
  if (!existsSync(folder) || readdirSync(folder).length === 0) return undefined;
  const previous = previousOf(folder);
  rmSync(previous, { recursive: true, force: true });
  renameSync(folder, previous);
  return previous;
}

function previousOf(folder: string): string {
  return `${folder}.previous`;
}

function isRun(folder: string): boolean {
  if (!statSync(folder).isDirectory()) return false;
  const names = readdirSync(folder);
  return names.length === 0 || names.includes("checkpoints") || names.includes("metrics.jsonl");
}
