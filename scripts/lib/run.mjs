// Child processes of set-up: output goes to a log, its last lines are shown when the command fails.
import { spawn } from "node:child_process";
import { createWriteStream, mkdirSync } from "node:fs";
import { dirname } from "node:path";

/** A command that ended with an error. */
export class CommandFailed extends Error {
  /**
   * @param {string} command
   * @param {number | string} status exit code or signal
   * @param {string[]} lines everything it printed
   * @param {string} log
   */
  constructor(command, status, lines, log) {
    super(`${command} ended with ${typeof status === "number" ? `exit code ${status}` : status}`);
    this.name = "CommandFailed";
    this.status = status;
    this.lines = lines;
    this.log = log;
  }
}

/** Process groups that are running now: set-up that is ended must not leave compilers behind. */
const running = new Set();

function endRunning() {
  for (const pid of running) {
    try {
      process.kill(-pid, "SIGTERM");
    } catch {
      // it has just ended
    }
  }
}
process.on("exit", endRunning);

/**
 * Runs a command without a shell, without stdin, in a process group of its own.
 * @param {string} file
 * @param {string[]} args
 * @param {{ log: string, cwd?: string, env?: NodeJS.ProcessEnv, onLine?: (line: string) => void }} options
 * @returns {Promise<string[]>} the lines it printed
 */
export function runLogged(file, args, { log, cwd, env = process.env, onLine = () => {} }) {
  mkdirSync(dirname(log), { recursive: true });
  const stream = createWriteStream(log);
  stream.write(`$ ${[file, ...args].join(" ")}\n`);
  return new Promise((resolve, reject) => {
    const lines = [];
    const child = spawn(file, args, { cwd, env, stdio: ["ignore", "pipe", "pipe"], detached: true });
    if (child.pid !== undefined) running.add(child.pid);
    // A line of its own per stream: two halves of different lines must not be glued together.
    const collect = () => {
      let rest = "";
      return (chunk) => {
        stream.write(chunk);
        const parts = (rest + chunk).split(/\r?\n|\r/);
        rest = parts.pop() ?? "";
        for (const line of parts) {
          lines.push(line);
          onLine(line);
        }
      };
    };
    child.stdout.setEncoding("utf8").on("data", collect());
    child.stderr.setEncoding("utf8").on("data", collect());
    child.on("error", (error) => {
      stream.end(`${error.message}\n`, () => reject(error));
    });
    child.on("close", (code, signal) => {
      running.delete(child.pid);
      stream.end(() => {
        if (code === 0) resolve(lines);
        else reject(new CommandFailed(file, code ?? signal ?? 1, lines, log));
      });
    });
  });
}

/**
 * Runs a command with this process's terminal and passes signals on.
 * @param {string} file
 * @param {string[]} args
 * @param {{ cwd?: string, env?: NodeJS.ProcessEnv }} [options]
 * @returns {Promise<number>} its exit code; 128 + number for a signal, as shells do
 */
export function runInherited(file, args, { cwd, env = process.env } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { cwd, env, stdio: "inherit" });
    const signals = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"];
    // On a terminal Ctrl-C reaches the child by itself: then staying alive until it ends is all there is to do.
    const pass = (signal) => {
      if (signal !== "SIGINT" || !process.stdin.isTTY) child.kill(signal);
    };
    for (const signal of signals) process.on(signal, pass);
    const done = (settle) => {
      for (const signal of signals) process.off(signal, pass);
      settle();
    };
    child.on("error", (error) => done(() => reject(error)));
    child.on("close", (code, signal) => done(() => resolve(code ?? 128 + (signalNumbers[signal] ?? 1))));
  });
}

const signalNumbers = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGILL: 4,
  SIGABRT: 6,
  SIGBUS: 7,
  SIGKILL: 9,
  SIGSEGV: 11,
  SIGTERM: 15,
};
