import { Command, InvalidArgumentError } from "commander";
import { integer, port, real } from "./options.js";

export interface LaunchOptions {
  nproc?: string;
  nnodes?: number;
  nodeRank?: number;
  masterAddr?: string;
  masterPort?: number;
  maxRestarts: number;
  logDir?: string;
  grace: number;
  expect?: string;
  prefix: boolean;
}

/** `diffcoder launch FILE` or `diffcoder launch -- COMMAND` */
export function launchCommand(): Command {
  return new Command("launch")
    .summary("start one program as several processes that train together")
    .description(
      "Starts a program as several processes that train together, on this machine or on several. When one fails, all are " +
        "ended, and with --max-restarts started again. Ctrl-C lets them save; once more ends at once. Options come before " +
        "the file; what follows it goes to the program. docs/launch.md has more.",
    )
    .usage("[options] <file> [args...]\n       diffcoder launch [options] -- <command> [args...]")
    .argument("<file>", "a .ts or .js program, or a .yaml curriculum, which `diffcoder train` runs")
    .argument("[args...]", "arguments of the program")
    .passThroughOptions()
    .option("--nproc <n>", '"auto" (one for each GPU, else for each core), "gpu", "cpu" or a number; default: 1', count)
    .option("--nnodes <n>", "how many machines take part, each with a launcher of its own; default: 1", integer(1))
    .option("--node-rank <n>", "number of this machine among them, from 0", integer(0))
    .option("--master-addr <host>", "the machine with number 0")
    .option("--master-port <port>", "a port there; default: a free one, with several machines 29500", port(1))
    .option("--max-restarts <n>", "how often all are started again after one has failed", integer(0), 0)
    .option("--log-dir <folder>", "what each process prints also goes to RANK.log there")
    .option("--grace <seconds>", "a process gets to end after SIGTERM, before SIGKILL", real(0, 86_400), 15)
    .option(
      "--expect <path>",
      "a file or folder that is there when all is done; if it is not, the exit code is 75 though all ended well",
    )
    .option("--no-prefix", "print what the processes print without [RANK] in front")
    .addHelpText(
      "after",
      "\nAn option that is not given is taken from the environment, if it is there: PET_NPROC_PER_NODE, PET_NNODES,\n" +
        "PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT.",
    )
    .action(async (_file: string, _args: string[], options: LaunchOptions, command: Command) => {
      const { launch } = await import("./launch/run.js");
      process.exitCode = await launch(command.args, isAfterDashes(command), options);
    });
}

/** Whether the words that are left came after "--". Commander takes that away, but not from what it was given. */
function isAfterDashes(command: Command): boolean {
  let root = command;
  while (root.parent !== null) root = root.parent;
  const { rawArgs } = root as unknown as { rawArgs: string[] };
  return rawArgs[rawArgs.length - command.args.length - 1] === "--";
}

/** A number of processes, or the name of a rule that gives one. */
export function count(text: string): string {
  if (/^(auto|gpu|cpu)$/.test(text) || (/^\d{1,6}$/.test(text) && Number(text) > 0)) return text;
  throw new InvalidArgumentError('expected a number from 1, "auto", "gpu" or "cpu"');
}
