import { Command } from "commander";
import {
  checkpointExportSchema,
  checkpointListSchema,
  checkpointVerifySchema,
  doctorOptionsSchema,
  evalModelSchema,
  evalRunSchema,
  generateCommandSchema,
  launchOptionsSchema,
  quickstartOptionsSchema,
  reportOptionsSchema,
  serveEngineSchema,
  serveServerSchema,
  trainOptionsSchema,
  trainRunSchema,
  watchOptionsSchema,
} from "./command-options.js";
import { addFlags, givenOptions, parseFlags, refuseFlag } from "./flags.js";

// Descriptions of the commands. Each command loads its code when it runs, so that help appears immediately and works
// before the addon is built. The options are in command-options.ts.

/** `diffcoder quickstart`, which `npm start` runs. */
export function quickstartCommand(): Command {
  const command = new Command("quickstart")
    .summary("train a small model on this machine's code through the whole curriculum, and try it")
    .description(
      "Trains a small Stable-DiffCoder on code that is already on this machine, through the whole curriculum: AR, its " +
        "pre-anneal checkpoint, block diffusion with mask-ratio warmup and clipped noise, anneal. Then measures and tries it.",
    );
  return addFlags(command, quickstartOptionsSchema, { hints: { data: { variadic: true } } }).action(async (given) => {
    const { quickstart } = await import("./quickstart/run.js");
    await quickstart(parseFlags(quickstartOptionsSchema, given));
  });
}

/** `diffcoder train CURRICULUM` */
export function trainCommand(): Command {
  const command = new Command("train")
    .summary("run a curriculum from a .ts or .yaml file")
    .description(
      "Runs a curriculum from a file in TypeScript, JavaScript or YAML. Options that are not given are the file's. Ctrl-C " +
        "ends after the current step and saves; --resume continues from there. docs/training.md describes the files.",
    )
    .argument("<curriculum>", "a .ts or .js file that exports `curriculum` and `model`, or a .yaml file");
  addFlags(command, trainOptionsSchema, { hints: { quiet: { short: "q" } } });
  addFlags(command, trainRunSchema, { noDefaults: true, title: "Run options, instead of those of the file:" });
  return command.action(async (curriculum: string, given) => {
    const { train } = await import("./train/run.js");
    await train(curriculum, { ...parseFlags(trainOptionsSchema, given), run: givenOptions(trainRunSchema, given) });
  });
}

/** `diffcoder launch FILE` or `diffcoder launch -- COMMAND` */
export function launchCommand(): Command {
  const command = new Command("launch")
    .summary("start one program as several processes that train together")
    .description(
      "Starts a program as several processes that train together, on one or several machines. When one fails, all are " +
        "stopped, and restarted with --max-restarts. Ctrl-C lets them save; a second Ctrl-C ends them immediately. Options " +
        "come before the file; what follows the file goes to the program. See docs/launch.md.",
    )
    .usage("[options] <file> [args...]\n       diffcoder launch [options] -- <command> [args...]")
    .argument("<file>", "a .ts or .js program, or a .yaml curriculum, which `diffcoder train` runs")
    .argument("[args...]", "arguments of the program")
    .passThroughOptions()
    .addHelpText(
      "after",
      "\nOptions that are not given come from these environment variables, if they are set: PET_NPROC_PER_NODE,\n" +
        "PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT.",
    );
  return addFlags(command, launchOptionsSchema).action(async (_file: string, _args: string[], given, self: Command) => {
    const { launch } = await import("./launch/run.js");
    process.exitCode = await launch(self.args, isAfterDashes(self), parseFlags(launchOptionsSchema, given));
  });
}

/** Whether the remaining words came after "--", which commander removes from them, but not from its own input. */
function isAfterDashes(command: Command): boolean {
  let root = command;
  while (root.parent !== null) root = root.parent;
  const { rawArgs } = root as unknown as { rawArgs: string[] };
  return rawArgs[rawArgs.length - command.args.length - 1] === "--";
}

/** `diffcoder watch RUN...` */
export function watchCommand(): Command {
  const command = new Command("watch")
    .summary("a live dashboard of training runs")
    .description(
      "Follows runs by their metrics.jsonl, on this machine or on another that sees the folder: stage and remaining time, " +
        "curves, rates, ranks, checkpoints, samples. A run may start later. Without a terminal, it prints a line for each " +
        "change until all runs have ended.",
    )
    .argument("<run...>", "a run's folder, or its metrics.jsonl");
  return addFlags(command, watchOptionsSchema).action(async (runs: string[], given) => {
    const { watch } = await import("./watch/run.js");
    await watch(runs, parseFlags(watchOptionsSchema, given));
  });
}

/** `diffcoder report RUN...` */
export function reportCommand(): Command {
  const command = new Command("report")
    .summary("one HTML page of a training run, or of several to compare them")
    .description(
      "Writes one HTML file that needs no network: for one run its curves, samples and settings; for several runs their " +
        "curves in common charts, their final numbers and their settings. Reads metrics.jsonl, or report.html without it.",
    )
    .argument("<run...>", "a run's folder, its metrics.jsonl or its report.html");
  return addFlags(command, reportOptionsSchema).action(async (runs: string[], given) => {
    const { writeReport } = await import("./report/run.js");
    const options = parseFlags(reportOptionsSchema, given);
    await writeReport(runs, options);
    process.stdout.write(`${options.out}\n`);
  });
}

/** `diffcoder generate MODEL [PROMPT]` */
export function generateCommand(): Command {
  const command = new Command("generate")
    .summary("complete a prompt with a checkpoint, drawing the canvas as it denoises")
    .description("Completes a prompt with a checkpoint in Hugging Face layout, by block diffusion or token by token.")
    .argument("<model>", "the checkpoint's folder")
    .argument("[prompt]", "text to complete; default: standard input");
  addFlags(command, generateCommandSchema, {
    hints: {
      file: { short: "f" },
      maxTokens: { short: "n" },
      blockSize: { short: "b", conflicts: ["autoregressive"] },
      steps: { conflicts: ["autoregressive"] },
      threshold: { conflicts: ["autoregressive", "steps"] },
      shift: { conflicts: ["autoregressive"] },
      temperature: { short: "t" },
    },
  });
  return command.action(async (model: string, prompt: string | undefined, given) => {
    const { generate } = await import("./generate/run.js");
    await generate(model, prompt, parseFlags(generateCommandSchema, given));
  });
}

/** `diffcoder serve MODEL` */
export function serveCommand(): Command {
  const command = new Command("serve")
    .summary("serve a checkpoint by OpenAI's protocol, with a page that shows it denoise")
    .description("Serves a checkpoint in Hugging Face layout by OpenAI's protocol, and a playground at /.")
    .argument("<model>", "the checkpoint's folder");
  addFlags(command, serveServerSchema, {
    title: "Server:",
    hints: {
      port: { short: "p" },
      temperature: { short: "t" },
      apiKeys: { env: "DIFFCODER_API_KEY" },
      tls: { flatten: true },
    },
  });
  addFlags(command, serveEngineSchema, {
    title: "Engine:",
    hints: { blockSize: { short: "b" }, cacheBytes: { conflicts: ["cacheTokens"] } },
  });
  refuseFlag(command, "int8", "--quantization int8");
  return command.action(async (model: string, given) => {
    const { serve } = await import("./serve/run.js");
    await serve(model, { server: parseFlags(serveServerSchema, given), engine: parseFlags(serveEngineSchema, given) });
  });
}

/** `diffcoder eval BENCHMARK` */
export function evalCommand(): Command {
  const command = new Command("eval")
    .summary("measure how well a model solves a benchmark of code")
    .description(
      "Has a model answer a benchmark's problems, runs its programs in bubblewrap and computes pass@k. The benchmark's file is " +
        "read as its authors publish it. A run that was stopped is continued. See docs/evaluation.md.",
    )
    .argument("[benchmark]", "such as humaneval, humaneval+, mbpp+ or cruxeval-output; none: list them");
  addFlags(command, evalModelSchema, {
    title: "Model:",
    hints: {
      model: { conflicts: ["server", "canonical", "rescore"] },
      server: { conflicts: ["canonical", "rescore"] },
      canonical: { conflicts: ["rescore"] },
      apiKey: { env: "DIFFCODER_API_KEY" },
    },
  });
  addFlags(command, evalRunSchema, {
    title: "Run:",
    hints: {
      samples: { short: "n" },
      temperature: { short: "t" },
      threshold: { conflicts: ["steps"] },
    },
  });
  return command.action(async (benchmark: string | undefined, given) => {
    const { runEval } = await import("./eval/run.js");
    await runEval(benchmark, { model: parseFlags(evalModelSchema, given), run: parseFlags(evalRunSchema, given) });
  });
}

/** `diffcoder doctor`: prints the report; the exit code is 1 if diffcoder cannot run here. */
export function doctorCommand(): Command {
  const command = new Command("doctor")
    .summary("show what was found on this machine, what is missing and how to fix it")
    .description(
      "Shows what was found on this machine, what is missing and the command that fixes it. Exit code 1: diffcoder cannot run.",
    );
  return addFlags(command, doctorOptionsSchema).action(async (given) => {
    const { printDoctorReport } = await import("./doctor.js");
    await printDoctorReport(parseFlags(doctorOptionsSchema, given));
  });
}

/**
 * `diffcoder setup`, as a line of the help. bin/diffcoder.mjs runs it before anything is compiled, so this command
 * itself never runs.
 */
export function setupCommand(): Command {
  return new Command("setup")
    .summary("install or build what is missing: npm packages, libtorch, the addon")
    .description("Installs or builds what is missing. npx diffcoder setup --help shows its options.")
    .helpOption(false);
}

/** `diffcoder checkpoint ls|verify|export` */
export function checkpointCommand(): Command {
  const command = new Command("checkpoint")
    .summary("list, check and export the checkpoints of a run")
    .description("Works on the checkpoints of training runs, without a GPU. See docs/checkpoints.md.");
  for (const sub of [checkpointListCommand(), checkpointVerifyCommand(), checkpointExportCommand()]) {
    sub.showHelpAfterError(`(npx diffcoder checkpoint ${sub.name()} --help shows how it is called)`);
    command.addCommand(sub);
  }
  return command;
}

function checkpointListCommand(): Command {
  const command = new Command("ls")
    .summary("list a run's checkpoints, the newest first")
    .description(
      "Lists a run's checkpoints, the newest first, with the number of processes that wrote each, and whether all of its " +
        "files are complete. `checkpoint verify` compares their content.",
    )
    .argument("<run>", "the run's folder");
  return addFlags(command, checkpointListSchema).action(async (run: string, given) => {
    const { list } = await import("./checkpoint/run.js");
    list(run, parseFlags(checkpointListSchema, given));
  });
}

function checkpointVerifyCommand(): Command {
  const command = new Command("verify")
    .summary("read a checkpoint's files and compare them with its manifest")
    .description(
      "Reads every file of a checkpoint and compares it with the SHA-256 in the manifest. Lists each file that differs, " +
        "and exits with code 1 if there is one.",
    )
    .argument("<folder>", "a checkpoint, or a run: then its newest checkpoint");
  return addFlags(command, checkpointVerifySchema).action(async (folder: string, given) => {
    const { verify } = await import("./checkpoint/run.js");
    await verify(folder, parseFlags(checkpointVerifySchema, given));
  });
}

function checkpointExportCommand(): Command {
  const command = new Command("export")
    .summary("write a checkpoint's weights in Hugging Face layout")
    .description(
      "Writes a checkpoint's weights in Hugging Face layout, with config and tokenizer, from the shards of any number of " +
        "processes. It writes one tensor after the other, so host memory holds little more than the largest.",
    )
    .argument("<folder>", "the checkpoint");
  return addFlags(command, checkpointExportSchema).action(async (folder: string, given) => {
    const { exportModel } = await import("./checkpoint/run.js");
    await exportModel(folder, parseFlags(checkpointExportSchema, given));
  });
}
