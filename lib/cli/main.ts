import { readFileSync } from "node:fs";
import { Command } from "commander";
import colors from "picocolors";
import { describeError } from "./errors.js";

// Commands are loaded when they are called: `diffcoder doctor` and `--help` must work without the addon and libtorch.
const commands: { name: string; summary: string; load: () => Promise<Command> }[] = [
  {
    name: "quickstart",
    summary: "train a small model on this machine's code through the whole curriculum, and try it",
    load: async () => (await import("./quickstart.js")).quickstartCommand(),
  },
  {
    name: "train",
    summary: "run a curriculum from a .ts or .yaml file",
    load: async () => (await import("./train.js")).trainCommand(),
  },
  {
    name: "generate",
    summary: "complete a prompt with a checkpoint, drawing the canvas as it denoises",
    load: async () => (await import("./generate.js")).generateCommand(),
  },
  {
    name: "doctor",
    summary: "say what was found on this machine, what is missing and how to mend it",
    load: async () => (await import("./doctor.js")).doctorCommand(),
  },
];

function packageVersion(): string {
  const manifest = new URL("../../package.json", import.meta.url);
  return (JSON.parse(readFileSync(manifest, "utf8")) as { version: string }).version;
}

async function main(argv: string[]): Promise<void> {
  const program = new Command("diffcoder")
    .description(
      "Stable-DiffCoder on libtorch: train by the AR-then-diffusion curriculum, and generate by block diffusion.",
    )
    .version(packageVersion())
    .showHelpAfterError("(--help shows what there is)");
  const wanted = argv.slice(2).find((argument) => !argument.startsWith("-"));
  for (const { name, summary, load } of commands) {
    if (name === wanted) program.addCommand((await load()).summary(summary));
    else program.command(name).description(summary).summary(summary).allowUnknownOption().allowExcessArguments();
  }
  await program.parseAsync(argv);
}

main(process.argv).catch((error: unknown) => {
  process.stderr.write(`${colors.red("error")} ${describeError(error)}\n`);
  process.exitCode = 1;
});
