import { Command } from "commander";
import colors from "picocolors";
import { packageVersion } from "../torch/package-version.js";
import {
  checkpointCommand,
  doctorCommand,
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
 * All commands. Here they are only described: each loads what it runs on when it is called, because help must come at
 * once, and on a machine where the addon is not built.
 */
function diffcoder(): Command {
  const program = new Command("diffcoder")
    .description(
      "Stable-DiffCoder on libtorch: train by the AR-then-diffusion curriculum, generate and serve by block diffusion.",
    )
    .version(packageVersion())
    .configureHelp({ subcommandTerm: (command) => command.name() })
    .enablePositionalOptions() // what follows a launched program belongs to that
    .showHelpAfterError("(npx diffcoder --help shows what there is)");
  const commands = [
    quickstartCommand(),
    trainCommand(),
    launchCommand(),
    watchCommand(),
    reportCommand(),
    generateCommand(),
    serveCommand(),
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

// A reader that has enough, such as `head`, is not an error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit();
});

// With nothing left to wait for Node ends in silence, with exit code 0, though the command did not come to its end. Whoever
// waits for a user's promise says so itself, see lib/train/user-code.ts.
let isOver = false;
const reportStuck = () => {
  if (isOver || process.listenerCount("beforeExit") > 1) return;
  const what = "the command waits for something that never comes: nothing is left in the process that could end it";
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
