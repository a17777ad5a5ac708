import { readFileSync } from "node:fs";
import { Command, InvalidArgumentError, Option } from "commander";
import colors from "picocolors";
import { confidenceThreshold, staticSchedule } from "../diffusion/index.js";
import { StableDiffCoder } from "../model/index.js";
import { interruptSignal } from "../train/index.js";
import { type Completion, completeAutoregressively, completeByDiffusion, type Screen } from "./complete.js";
import { CliError } from "./errors.js";
import { deviceOption } from "./options.js";

interface GenerateOptions {
  maxTokens: number;
  blockSize: number;
  steps?: number;
  threshold?: number;
  temperature: number;
  topP: number;
  topK: number;
  seed: number;
  autoregressive?: boolean;
  file?: string;
  chat?: boolean;
  device: string;
  dtype: "auto" | "float32" | "bfloat16" | "float16";
  pause: number;
  canvas: boolean;
  json?: boolean;
}

const integer = (minimum: number) => (text: string) => {
  const value = Number(text);
  if (!Number.isInteger(value) || value < minimum) throw new InvalidArgumentError(`an integer from ${minimum}`);
  return value;
};

const real = (minimum: number, maximum: number) => (text: string) => {
  const value = Number(text);
  if (text.trim() === "" || !(value >= minimum && value <= maximum))
    throw new InvalidArgumentError(`a number from ${minimum} to ${maximum}`);
  return value;
};

/** `diffcoder generate MODEL [PROMPT]` */
export function generateCommand(): Command {
  return new Command("generate")
    .description("Complete a prompt with a checkpoint in Hugging Face layout, by block diffusion or token by token.")
    .argument("<model>", "the checkpoint's folder")
    .argument("[prompt]", "text to complete; default: what comes on standard input")
    .option("-f, --file <path>", "take the prompt from a file")
    .option("--chat", "wrap the prompt as a user's message in the model's chat template")
    .option("-n, --max-tokens <n>", "tokens to generate at most", integer(1), 128)
    .option("-b, --block-size <n>", "tokens that are denoised together; as trained", integer(1), 4)
    .option("--steps <n>", "denoising passes per block; default: one token a pass", integer(1))
    .option("--threshold <p>", "commit every token surer than this, at least one a pass", real(0, 1))
    .option("-t, --temperature <t>", "0: the most likely token", real(0, 100), 0)
    .option("--top-p <p>", "sample among the likeliest tokens of this joint probability", real(0, 1), 1)
    .option("--top-k <k>", "sample among the k likeliest tokens; 0: all", integer(0), 0)
    .option("--seed <n>", "of the sampling", integer(0), 0)
    .option("--autoregressive", "decode token by token with the same weights")
    .addOption(deviceOption())
    .addOption(
      new Option("--dtype <type>", "of the weights; auto: as saved")
        .choices(["auto", "float32", "bfloat16", "float16"])
        .default("auto"),
    )
    .option("--pause <ms>", "rest after each frame of the canvas", integer(0), 0)
    .option("--no-canvas", "print the result only, also on a terminal")
    .option("--json", "print one JSON object with the text and the counts")
    .action(generate);
}

async function generate(path: string, given: string | undefined, options: GenerateOptions): Promise<void> {
  const text = promptText(given, options);
  using coder = await StableDiffCoder.fromPretrained(path, { device: options.device, dtype: options.dtype });
  const { tokenizer } = coder;
  const prompt = options.chat
    ? tokenizer.encodeChat([{ role: "user", content: text }], { addGenerationPrompt: true })
    : tokenizer.encode(text);
  using interrupt = interruptSignal();
  const screen: Screen | undefined = options.json
    ? undefined
    : { stream: process.stdout, live: options.canvas && process.stdout.isTTY === true, pause: options.pause };
  const common = {
    maxTokens: options.maxTokens,
    temperature: options.temperature,
    topP: options.topP,
    topK: options.topK,
    seed: options.seed,
    signal: interrupt.signal,
  };
  const completion = options.autoregressive
    ? await completeAutoregressively(coder, prompt, common, screen)
    : await completeByDiffusion(
        coder,
        prompt,
        { ...common, blockSize: options.blockSize, commit: rule(options) },
        screen,
      );
  report(completion, options);
}

function promptText(given: string | undefined, { file }: GenerateOptions): string {
  if (file !== undefined && given !== undefined) throw new CliError("give a prompt or --file, not both");
  if (given !== undefined) return given;
  if (file === undefined && process.stdin.isTTY)
    throw new CliError("no prompt: give one, or --file PATH, or pipe it in");
  return readFileSync(file ?? 0, "utf8");
}

function rule({ threshold, steps }: GenerateOptions) {
  if (threshold !== undefined && steps !== undefined) throw new CliError("give --threshold or --steps, not both");
  return threshold === undefined ? staticSchedule({ steps }) : confidenceThreshold(threshold);
}

function report({ text, tokens, forwards, seconds, finishReason }: Completion, { json }: GenerateOptions): void {
  if (json) {
    process.stdout.write(`${JSON.stringify({ text, tokens, forwards, seconds, finish_reason: finishReason })}\n`);
    return;
  }
  const perForward = (tokens / Math.max(1, forwards)).toFixed(2);
  const rate = (tokens / Math.max(seconds, 1e-9)).toFixed(1);
  const facts = `${tokens} tokens, ${forwards} forwards (${perForward} tokens each), ${rate} tokens/s, ended by ${finishReason}`;
  process.stderr.write(`${colors.dim(facts)}\n`);
}
