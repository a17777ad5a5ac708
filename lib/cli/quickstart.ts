import { join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { Command, InvalidArgumentError } from "commander";
import colors from "picocolors";
import { formatSummary, prepareData } from "../data/index.js";
import { confidenceThreshold } from "../diffusion/index.js";
import { StableDiffCoder, Tokenizer } from "../model/index.js";
import { Curriculum, defaultSinks, interruptSignal, type TrainingSample, terminal } from "../train/index.js";
import { type Completion, completeAutoregressively, completeByDiffusion, type Screen } from "./complete.js";
import { CliError } from "./errors.js";
import { deviceOption } from "./options.js";
import { calibrate } from "./quickstart/calibrate.js";
import { autoregressive, bound, gzipBitsPerByte, heldOutText } from "./quickstart/compare.js";
import { BLOCK_SIZE, type QuickstartSteps, quickstartStages, stepsFor } from "./quickstart/curriculum.js";
import { heldOutPrompts, type Prompt } from "./quickstart/prompts.js";
import { moveAside } from "./quickstart/run-folder.js";

interface QuickstartOptions {
  minutes: number;
  steps?: QuickstartSteps;
  data?: string[];
  out: string;
  seed: number;
  device: string;
}

const TOKENIZER = fileURLToPath(new URL("../../assets/tokenizer", import.meta.url));
const LENGTH = 256;
const NEW_TOKENS = 64;
/** Shares of the time that are not training: preparing, measuring, writing. */
const OVERHEAD = { share: 0.12, seconds: 20 };

function minutes(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !(value >= 0.1 && value <= 100_000))
    throw new InvalidArgumentError("a number of minutes from 0.1");
  return value;
}

function steps(text: string): QuickstartSteps {
  const [compress, cpt, anneal, ...more] = text.split(",").map(Number);
  if (more.length > 0 || ![compress, cpt, anneal].every((value) => Number.isInteger(value) && value > 0))
    throw new InvalidArgumentError('three positive integers, such as "800,300,200"');
  return { compress, cpt, anneal };
}

function seed(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isSafeInteger(value) || value < 0)
    throw new InvalidArgumentError("an integer from 0");
  return value;
}

/** `diffcoder quickstart`, which `npm start` runs. */
export function quickstartCommand(): Command {
  return new Command("quickstart")
    .description(
      "Train a small Stable-DiffCoder on the code that this machine has anyway, through the whole curriculum: AR, its\n" +
        "pre-anneal checkpoint, block diffusion with mask-ratio warmup and clipped noise, anneal. Then measure and try it.",
    )
    .option("--minutes <n>", "time for everything", minutes, 7.5)
    .option("--steps <ar,cpt,anneal>", "steps of the three stages, instead of a time: repeats a run exactly", steps)
    .option("--data <path...>", "folders or files of code; default: node_modules and Python's standard library")
    .option("--out <folder>", "where the run goes; a run that is there moves to FOLDER.previous", "runs/quickstart")
    .option("--seed <n>", "of the weights, the data's order and the corruption", seed, 0)
    .addOption(deviceOption())
    .action(quickstart);
}

async function quickstart(options: QuickstartOptions): Promise<void> {
  const began = performance.now();
  const out = resolve(options.out);
  using interrupt = interruptSignal();
  const { signal } = interrupt;
  const { device } = options;

  heading("Data");
  const tokenizer = Tokenizer.fromPretrained(TOKENIZER);
  const data = await prepareData(
    { length: LENGTH, ...(options.data && { paths: options.data }), seed: options.seed, fim: { rate: 0.1 } },
    tokenizer,
    { signal, onProgress: progressLine() },
  );
  say(formatSummary(data.summary));
  if (data.heldOut === undefined) {
    throw new CliError("nothing could be held out of this text to measure on: give more files with --data");
  }

  heading("Training");
  const remaining = options.minutes * 60 * (1 - OVERHEAD.share) - OVERHEAD.seconds - (performance.now() - began) / 1000;
  const planned =
    options.steps ?? stepsFor(Math.max(2, remaining), await calibrate(data, tokenizer, { device, signal }));
  say(`steps: ${planned.compress} AR, ${planned.cpt} + ${planned.anneal} block diffusion (B = ${BLOCK_SIZE})`);
  const previous = moveAside(out);
  if (previous) say(`the earlier run is now in ${relative(".", previous)}`);
  using coder = StableDiffCoder.fromConfig("tiny", { tokenizer, seed: options.seed, device });
  const prompts = heldOutPrompts(data, tokenizer, 3);
  const write = {
    every: Number.MAX_SAFE_INTEGER, // at the stage's end only
    run: () => Promise.all(prompts.map((prompt) => asSample(coder, prompt, signal))),
  };
  const curriculum = new Curriculum(quickstartStages(data, planned, { sample: write, checkpoint: "final" }));
  const run = curriculum.run({
    model: coder,
    out,
    device,
    seed: options.seed,
    signal,
    sinks: [...defaultSinks(out), terminal()],
  });
  for await (const event of run) {
    if (event.type === "aborted") {
      say(`stopped; what was learnt is in ${relative(".", event.checkpoint ?? out)}`);
      process.exitCode = 130;
      return;
    }
  }

  heading("Held-out text, bits per byte (less is better)");
  const checkpoints = join(out, "checkpoints");
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
    const byDiffusion = await complete(coder, prompt, signal, screen);
    const byAr = await completeAutoregressively(preAnneal, prompt.ids, {
      maxTokens: byDiffusion.tokens,
      stopIds: [],
      signal,
    });
    say(
      colors.dim(
        `block diffusion: ${byDiffusion.tokens} tokens in ${byDiffusion.forwards} forwards; AR: ${byAr.tokens} in ${byAr.forwards}`,
      ),
    );
  }
  sayWhatNext(out, began);
}

/** Surest first, and all that are sure enough: the sampler that needs fewer forwards than tokens. */
function complete(coder: StableDiffCoder, prompt: Prompt, signal: AbortSignal, screen?: Screen): Promise<Completion> {
  const options = {
    maxTokens: NEW_TOKENS,
    blockSize: BLOCK_SIZE,
    commit: confidenceThreshold(0.7),
    stopIds: [],
    signal,
  };
  return completeByDiffusion(coder, prompt.ids, options, screen);
}

async function asSample(coder: StableDiffCoder, prompt: Prompt, signal: AbortSignal): Promise<TrainingSample> {
  const { text, tokens, forwards } = await complete(coder, prompt, signal);
  return {
    prompt: coder.tokenizer.decode(prompt.ids),
    text,
    note: `${prompt.document}: ${tokens} tokens in ${forwards} forwards`,
  };
}

function sayWhatNext(out: string, began: number): void {
  const folder = relative(".", out) || ".";
  const model = join(folder, "checkpoints", "final");
  heading("Done");
  say(`${((performance.now() - began) / 60_000).toFixed(1)} minutes. The report: ${join(folder, "report.html")}`);
  say("What next:");
  say(`  npx diffcoder generate ${model} "def main("           complete something of your own`);
  say(`  npx diffcoder generate ${model} "def main(" --autoregressive`);
  say("  npm start -- --minutes 60                              train longer, or --data DIR on your code");
  say("  npx diffcoder train examples/custom-curriculum.ts      a curriculum with your own objective");
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

/** Shows how far the preparation is: in place on a terminal, nothing elsewhere, for it takes seconds. */
function progressLine(): (progress: { documents: number; bytes: number }) => void {
  if (!process.stderr.isTTY) return () => {};
  return ({ documents, bytes }) =>
    process.stderr.write(`\r${documents} documents, ${(bytes / 1e6).toFixed(1)} MB\x1b[K\r`);
}
