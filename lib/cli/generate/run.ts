import { text as readAll } from "node:stream/consumers";
import colors from "picocolors";
import { readTextFile } from "../../base/regular-file.js";
import { StableDiffCoder } from "../../checkpoint/index.js";
import type { GenerateCommandOptions } from "../command-options.js";
import { type Completion, type CompletionOptions, complete, type Screen } from "../complete.js";
import { CliError } from "../errors.js";
import { interruptible } from "../terminal.js";

/** Completes a prompt and shows the result. */
export async function generate(
  path: string,
  given: string | undefined,
  options: GenerateCommandOptions,
): Promise<void> {
  const { blockSize, steps, threshold, shift, maxTokens, temperature, topP, topK, seed } = options;
  const text = await promptText(given, options);
  using coder = await StableDiffCoder.fromPretrained(path, { device: options.device, dtype: options.dtype });
  const { tokenizer } = coder;
  const prompt = options.chat
    ? tokenizer.encodeChat([{ role: "user", content: text }], { addGenerationPrompt: true })
    : tokenizer.encode(text);
  const screen: Screen | undefined = options.json
    ? undefined
    : { stream: process.stdout, live: options.canvas && process.stdout.isTTY === true, pause: options.pause };
  await interruptible("Stopping. Press Ctrl-C again to exit immediately.", async (signal) => {
    const common = { maxTokens, temperature, topP, topK, seed, signal };
    const commit: CompletionOptions["commit"] =
      threshold === undefined ? { rule: "static", steps } : { rule: "threshold", value: threshold };
    const chosen: CompletionOptions = options.autoregressive
      ? { ...common, mode: "autoregressive" }
      : { ...common, blockSize, commit, shift };
    const completion = await complete(coder, prompt, chosen, screen);
    report(completion, options);
    if (completion.finishReason === "abort") process.exitCode = 130;
  });
}

async function promptText(given: string | undefined, { file }: GenerateCommandOptions): Promise<string> {
  if (file !== undefined && given !== undefined) throw new CliError("give a prompt or --file, not both");
  if (given !== undefined) return given;
  if (file !== undefined) return readPrompt(file);
  if (process.stdin.isTTY) throw new CliError("no prompt: give one as an argument, with --file PATH or through a pipe");
  return readAll(process.stdin);
}

function readPrompt(file: string): string {
  try {
    return readTextFile(file);
  } catch (cause) {
    throw new CliError(
      `--file ${file}: ${(cause as Error).message}. To read a pipe, use standard input without --file`,
      {
        cause,
      },
    );
  }
}

function report({ text, tokens, forwards, seconds, finishReason }: Completion, { json }: GenerateCommandOptions): void {
  if (json) {
    process.stdout.write(`${JSON.stringify({ text, tokens, forwards, seconds, finish_reason: finishReason })}\n`);
    return;
  }
  const perForward = (tokens / Math.max(1, forwards)).toFixed(2);
  const rate = (tokens / Math.max(seconds, 1e-9)).toFixed(1);
  const facts = `${tokens} tokens, ${forwards} forwards (${perForward} tokens each), ${rate} tokens/s, ended by ${finishReason}`;
  process.stderr.write(`${colors.dim(facts)}\n`);
}
