import { Command, Option } from "commander";
import { deviceOption, integer, real } from "./options.js";

export interface GenerateOptions {
  maxTokens: number;
  blockSize: number;
  steps?: number;
  threshold?: number;
  temperature: number;
  topP: number;
  topK: number;
  seed: number;
  autoregressive?: boolean;
  shift?: boolean;
  file?: string;
  chat?: boolean;
  device: string;
  dtype: "auto" | "float32" | "bfloat16" | "float16";
  pause: number;
  canvas: boolean;
  json?: boolean;
}

/** `diffcoder generate MODEL [PROMPT]` */
export function generateCommand(): Command {
  const diffusionOnly = (flags: string, description: string) =>
    new Option(flags, description).conflicts("autoregressive");
  return new Command("generate")
    .summary("complete a prompt with a checkpoint, drawing the canvas as it denoises")
    .description("Completes a prompt with a checkpoint in Hugging Face layout, by block diffusion or token by token.")
    .argument("<model>", "the checkpoint's folder")
    .argument("[prompt]", "text to complete; default: what comes on standard input")
    .option("-f, --file <path>", "take the prompt from a file")
    .option("--chat", "wrap the prompt as a user's message in the model's chat template")
    .option("-n, --max-tokens <n>", "tokens to generate at most", integer(1), 128)
    .addOption(
      diffusionOnly("-b, --block-size <n>", "tokens that are denoised together: as many as in training")
        .argParser(integer(1))
        .default(4),
    )
    .addOption(
      diffusionOnly("--steps <n>", "denoising passes per block; default: one token a pass").argParser(integer(1)),
    )
    .addOption(
      diffusionOnly("--threshold <p>", "instead of --steps: commit every token surer than this, at least one a pass")
        .argParser(real(0, 1))
        .conflicts("steps"),
    )
    .addOption(diffusionOnly("--shift", "the model was trained with the logit shift"))
    .option("-t, --temperature <t>", "randomness of the choice; 0: always the most likely token", real(0, 100), 0)
    .option("--top-p <p>", "sample among the likeliest tokens of this joint probability", real(0, 1), 1)
    .option("--top-k <k>", "sample among the k likeliest tokens; 0: all", integer(0), 0)
    .option("--seed <n>", "of the sampling", integer(0), 0)
    .option("--autoregressive", "decode token by token with the same weights")
    .addOption(deviceOption("cpu"))
    .addOption(
      new Option("--dtype <type>", "of the weights; auto: as saved")
        .choices(["auto", "float32", "bfloat16", "float16"])
        .default("auto"),
    )
    .option("--pause <ms>", "rest after each frame of the canvas", integer(0), 0)
    .option("--no-canvas", "print the result only, also on a terminal")
    .option("--json", "print one JSON object with the text and the counts")
    .action(async (model: string, prompt: string | undefined, options: GenerateOptions) => {
      const { generate } = await import("./generate/run.js");
      await generate(model, prompt, options);
    });
}
