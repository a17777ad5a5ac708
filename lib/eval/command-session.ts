import type { ChildProcess } from "node:child_process";
import type { Readable, Writable } from "node:stream";
import type { Verdict } from "./python-session.js";
import { DEFAULT_LIMITS, endGroup, type Sandbox } from "./sandbox.js";
import type { Command, Program } from "./task.js";

export type CommandProgram = Extract<Program, { kind: "commands" }>;

/** Output that is kept of a command; the rest is read and dropped. */
const KEPT_OUTPUT = 2048;

/**
 * Runs a program in any language: its files are written into an empty folder, and its commands follow each other in one sandbox
 * as long as they exit with 0. Its tests are part of the program, as in MultiPL-E, so a program that ends early with code 0
 * passes, as it does there.
 *
 * @param options.factor multiplies the time limits
 * @throws the signal's reason
 */
export async function runCommands(
  sandbox: Sandbox,
  program: CommandProgram,
  options: { factor?: number; memoryBytes?: number; signal?: AbortSignal } = {},
): Promise<Verdict> {
  const { factor = 1, memoryBytes = DEFAULT_LIMITS.memoryBytes, signal } = options;
  const missing = program.tools.filter((tool) => !sandbox.has(tool));
  if (missing.length > 0) return { status: "not-run", detail: `not installed: ${missing.join(", ")}` };
  signal?.throwIfAborted();
  const seconds = factor * program.commands.reduce((sum, command) => sum + command.seconds, 0);
  const limitMemory = program.commands.every((command) => command.limitMemory ?? true);
  const limits = {
    cpuSeconds: seconds,
    memoryBytes: limitMemory ? memoryBytes : undefined,
    processes: limitMemory ? DEFAULT_LIMITS.processes : 256, // those runtimes have a thread for each core, and more
    fileBytes: DEFAULT_LIMITS.fileBytes * 4,
  };
  const names = Object.keys(program.files);
  const descriptors = new Map(names.map((name, i) => [`/tmp/${name}`, 3 + i]));
  const stdio = ["ignore", "pipe", "pipe", ...names.map(() => "pipe" as const)] as ("ignore" | "pipe")[];
  const child = sandbox.start(["sh", "-c", script(program.commands)], limits, stdio, descriptors);
  names.forEach((name, i) => {
    const stream = child.stdio[3 + i] as Writable;
    stream.on("error", () => {}); // it may end without having read
    stream.end(program.files[name]);
  });
  return ended(child, 3 * seconds + 10, signal);
}

/** One shell line that stops at the first command that fails. */
function script(commands: readonly Command[]): string {
  const quoted = (word: string) => `'${word.replaceAll("'", "'\\''")}'`;
  return commands.map(({ argv }) => argv.map(quoted).join(" ")).join(" && ");
}

function ended(child: ChildProcess, wallSeconds: number, signal: AbortSignal | undefined): Promise<Verdict> {
  return new Promise((resolve, reject) => {
    let outOfTime = false;
    const [out, err] = [tailOf(child.stdout), tailOf(child.stderr)];
    const stop = () => {
      endGroup(child);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      outOfTime = true;
      endGroup(child);
    }, 1000 * wallSeconds);
    const finish = (verdict: Verdict) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", stop);
      resolve(verdict);
    };
    signal?.addEventListener("abort", stop, { once: true });
    child.on("error", (error) => finish({ status: "not-run", detail: error.message }));
    child.on("close", (code, killed) => {
      if (outOfTime || code === SIGXCPU_CODE) finish({ status: "timeout", detail: "time limit" });
      else if (code === 0) finish({ status: "passed" });
      else
        finish({ status: "failed", detail: `${killed ?? `code ${code}`}: ${err.text() || out.text()}`.slice(0, 300) });
    });
  });
}

const SIGXCPU_CODE = 128 + 24;

/** The beginning of a stream's text. The stream is read to its end. */
function tailOf(stream: Readable | null): { text: () => string } {
  let kept = "";
  stream?.on("data", (chunk: Buffer) => {
    if (kept.length < KEPT_OUTPUT) kept += chunk.toString("utf8", 0, KEPT_OUTPUT);
  });
  return { text: () => kept.trim() };
}
