import { Command } from "commander";
import colors from "picocolors";
import { packageVersion } from "../torch/package-version.js";
import {
  checkpointCommand,
  doctorCommand,
  evalCommand,
  generateCommand,
  launchCommand,
  quickstartCommand,
  reportCommand,
  serveCommand,
  setupCommand,
  trainCommand,
  watchCommand,
} from "./commands.js";
import { describeError } from "./errors.js";

/**
 * All commands. Each loads its code when it runs, so that help appears immediately and works before the addon is built.
 */
function diffcoder(): Command {
  const program = new Command("diffcoder")
    .description(
      "Stable-DiffCoder on libtorch: train by the AR-then-diffusion curriculum, generate and serve by block diffusion.",
    )
    .version(packageVersion())
    .configureHelp({ subcommandTerm: (command) => command.name() })
    .enablePositionalOptions() // options after a launched program belong to that program
    .showHelpAfterError("(npx diffcoder --help lists the commands)");
  const commands = [
    quickstartCommand(),
    trainCommand(),
    launchCommand(),
    watchCommand(),
    reportCommand(),
    generateCommand(),
    serveCommand(),
    evalCommand(),
    checkpointCommand(),
    doctorCommand(),
    setupCommand(),
  ];
  for (const command of commands) {
    command.showHelpAfterError(`(npx diffcoder ${command.name()} --help shows how it is called)`);
    program.addCommand(command);
  }
  return program;
}

// A closed pipe, as with `| head`, is not an error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit();
});

// When nothing is left to wait for, Node exits silently with code 0, although the command has not finished. Code that
// waits
// for a user's promise reports this itself, see lib/train/user-code.ts.
let isOver = false;
const reportStuck = () => {
  if (isOver || process.listenerCount("beforeExit") > 1) return;
  const what = "the command waits for a promise that nothing in the process can resolve";
  process.stderr.write(`${colors.red("error:")} ${what}\n`);
  process.exitCode = 1;
};
process.on("beforeExit", reportStuck);

diffcoder()
  .parseAsync(process.argv)
  .catch((error: unknown) => {
    process.stderr.write(`${colors.red("error:")} ${describeError(error)}\n`);
    process.exitCode = 1;
  })
  .finally(() => {
    isOver = true;
  });
