import { Command, Option } from "commander";
import { size } from "./options.js";

export interface ListOptions {
  json?: boolean;
}

export interface VerifyOptions {
  all?: boolean;
}

export interface ExportCommandOptions {
  out: string;
  dtype?: "float32" | "bfloat16" | "float16";
  maxShard: number;
}

/** `diffcoder checkpoint ls|verify|export` */
export function checkpointCommand(): Command {
  const command = new Command("checkpoint")
    .summary("list, check and export the checkpoints of a run")
    .description("Works on the checkpoints of training runs. No GPU is used. docs/checkpoints.md describes them.");
  for (const sub of [listCommand(), verifyCommand(), exportCommand()]) {
    sub.showHelpAfterError(`(npx diffcoder checkpoint ${sub.name()} --help shows how it is called)`);
    command.addCommand(sub);
  }
  return command;
}

function listCommand(): Command {
  return new Command("ls")
    .summary("list a run's checkpoints, the newest first")
    .description(
      "Lists a run's checkpoints, the newest first, with the number of processes that wrote each, and whether all of its " +
        "files are there in full. What is in the files is looked at by `checkpoint verify`.",
    )
    .argument("<run>", "the run's folder")
    .option("--json", "print one JSON array")
    .action(async (run: string, options: ListOptions) => {
      const { list } = await import("./checkpoint/list.js");
      list(run, options);
    });
}

function verifyCommand(): Command {
  return new Command("verify")
    .summary("read a checkpoint's files and compare them with its manifest")
    .description(
      "Reads every file of a checkpoint and compares it with the SHA-256 in the manifest. Names each file that is not " +
        "what was written, and then ends with code 1.",
    )
    .argument("<folder>", "a checkpoint, or a run: then its newest checkpoint")
    .option("--all", "all checkpoints of the run")
    .action(async (folder: string, options: VerifyOptions) => {
      const { verify } = await import("./checkpoint/verify.js");
      await verify(folder, options);
    });
}

function exportCommand(): Command {
  return new Command("export")
    .summary("write a checkpoint's weights in Hugging Face layout")
    .description(
      "Writes a checkpoint's weights in Hugging Face layout, with config and tokenizer, from the shards of however many " +
        "processes. One tensor after the other: host memory holds little more than the largest.",
    )
    .argument("<folder>", "the checkpoint")
    .requiredOption("--out <folder>", "where to; a model that is there is replaced")
    .addOption(
      new Option("--dtype <type>", "of the weights; default: as saved").choices(["float32", "bfloat16", "float16"]),
    )
    .addOption(new Option("--max-shard <size>", "largest file of weights").argParser(size).default(5e9, "5GB"))
    .action(async (folder: string, options: ExportCommandOptions) => {
      const { exportModel } = await import("./checkpoint/export.js");
      await exportModel(folder, options);
    });
}
