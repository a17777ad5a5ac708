import { randomUUID } from "node:crypto";
import { createWriteStream, mkdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import type { Writable } from "node:stream";
import type { LaunchOptions } from "../command-options.js";
import { CliError } from "../errors.js";
import { shownPath } from "../terminal.js";
import { Interruption } from "./interruption.js";
import { RankOutput } from "./output.js";
import { readProgram } from "./program.js";
import { supervise } from "./supervisor.js";
import { type Job, readTopology, type Topology, threadsPerRank } from "./topology.js";

/**
 * Starts a program once for each rank of this machine and waits until all have ended.
 *
 * @param words the program's file or, after "--", its command, followed by its arguments
 * @returns the exit code
 */
export async function launch(words: readonly string[], isCommand: boolean, options: LaunchOptions): Promise<number> {
  const { env } = process;
  const topology = readTopology(options, env);
  const program = readProgram(words, isCommand);
  const { stdout, stderr } = process;
  const output = new RankOutput({ stdout, stderr }, { prefix: options.prefix });
  const openLog = logs(options.logDir, output);
  using interruption = new Interruption(env);
  for (const screen of [stdout, stderr]) {
    screen.setMaxListeners(2 * topology.nproc + 10); // each stream may wait for "drain"
    screen.removeAllListeners("error");
    screen.on("error", (error: NodeJS.ErrnoException) => {
      output.mute(screen);
      // A closed pipe ends the launcher's output. A closed terminal also sends SIGHUP, unless that is ignored.
      if (error.code === "EPIPE") interruption.raise("SIGTERM");
      // Node aborts at exit if it cannot restore the settings of a closed terminal: exit by SIGHUP, as other programs
      // do.
      else if (error.code === "EIO") process.once("exit", () => process.kill(process.pid, "SIGHUP"));
    });
  }

  const threads: NodeJS.ProcessEnv = {};
  if (env.OMP_NUM_THREADS === undefined && topology.nproc > 1) {
    const count = threadsPerRank(topology);
    threads.OMP_NUM_THREADS = String(count);
    output.say(
      `OMP_NUM_THREADS=${count} in each of ${topology.nproc} processes, which share ${availableParallelism()} cores; ` +
        "set it to override",
    );
  }
  const job: Job = { topology, runId: runId(topology, env), maxRestarts: options.maxRestarts };
  try {
    return await supervise({
      ...{ job, program, output, interruption, log: openLog },
      env: { ...env, ...threads },
      graceSeconds: options.grace,
      expected: options.expect,
    });
  } finally {
    output.close();
  }
}

/** An id that is equal on all machines of the job. */
function runId({ nnodes, masterAddr, masterPort }: Topology, env: NodeJS.ProcessEnv): string {
  return env.PET_RDZV_ID || (nnodes === 1 ? randomUUID() : `${masterAddr}:${masterPort}`);
}

/**
 * Returns a function that opens the log of a rank, which is kept over restarts. A log that cannot be written is
 * reported once and does not end the run.
 */
function logs(
  folder: string | undefined,
  output: RankOutput,
): (rank: number, restartCount: number) => Writable | undefined {
  if (folder === undefined) return () => undefined;
  try {
    mkdirSync(folder, { recursive: true });
  } catch (error) {
    throw new CliError(`--log-dir ${folder}: ${(error as Error).message}`, { cause: error });
  }
  const open = new Map<number, Writable>();
  return (rank, restartCount) => {
    const before = open.get(rank);
    if (before !== undefined) {
      if (restartCount > 0 && !before.destroyed) before.write(`--- restart ${restartCount}\n`);
      return before;
    }
    const path = join(folder, `${rank}.log`);
    const file = createWriteStream(path);
    file.on("error", (error) => output.say(`warning: ${shownPath(path)}: ${error.message}`));
    open.set(rank, file);
    return file;
  };
}
