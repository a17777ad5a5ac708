import type { ChildProcess } from "node:child_process";
import type { Duplex } from "node:stream";
import { EvaluationError } from "./errors.js";
import type { Python } from "./python.js";
import { DEFAULT_LIMITS, endGroup, type Limits, type Sandbox } from "./sandbox.js";
import type { Program } from "./task.js";

/** What became of a program. */
export interface Verdict {
  status: "passed" | "failed" | "timeout" | "not-run";
  /** Why, in a few words. */
  detail?: string;
  /** Of tests that come in parts, which of them passed. */
  parts?: Record<string, boolean>;
  /** Processor time of the program, if requested. The program's process reports it, so it is not to be trusted. */
  seconds?: number;
}

export type PythonProgram = Extract<Program, { kind: "python" }>;

/** A longer line of a program is not taken. */
const MAX_LINE = 256 * 2 ** 20;
/** Seconds that the judge may take once the program's process has ended. */
const JUDGE_GRACE = 20;

interface Running {
  program: PythonProgram;
  limits: Limits;
  number: number;
  runner?: ChildProcess;
  channel?: Duplex;
  ended: boolean;
  wallTimer?: NodeJS.Timeout;
  graceTimer?: NodeJS.Timeout;
  outOfTime: boolean;
  exit?: string;
  settle: (verdict: Verdict) => void;
  fail: (error: unknown) => void;
}

/**
 * Judges Python programs, one at a time. The judge's process (assets/eval/judge.py) stays; every program runs in a new one
 * (runner.py). Both are sandboxed, and this class passes lines between them without reading those of the program.
 */
export class PythonSession {
  readonly #sandbox: Sandbox;
  readonly #python: Python;
  #judge: ChildProcess | undefined;
  #judgeErrors = "";
  #number = 0;
  #running: Running | undefined;

  constructor(sandbox: Sandbox, python: Python) {
    this.#sandbox = sandbox;
    this.#python = python;
  }

  /**
   * Runs a program's tests.
   *
   * @param options.seconds processor time that the program may use
   * @param options.usage ask the program's process for the time it used
   * @throws EvaluationError EVAL_DATA for a test that calls nothing of the program; EVAL_SANDBOX if a process cannot be started;
   *   the signal's reason
   */
  async run(
    program: PythonProgram,
    options: { seconds: number; memoryBytes?: number; usage?: boolean; signal?: AbortSignal },
  ): Promise<Verdict> {
    const { seconds, usage = false, signal, memoryBytes = DEFAULT_LIMITS.memoryBytes } = options;
    signal?.throwIfAborted();
    const judge = this.#start();
    const number = ++this.#number;
    const limits = { ...DEFAULT_LIMITS, cpuSeconds: seconds, memoryBytes };
    const stop = () => this.#end((running) => running.fail(signal?.reason));
    try {
      return await new Promise<Verdict>((settle, fail) => {
        this.#running = { program, limits, number, ended: false, outOfTime: false, settle, fail };
        signal?.addEventListener("abort", stop, { once: true });
        const { test, source, sanitize } = program;
        write(judge, `${number}\t${JSON.stringify({ ...test, source, sanitize, usage })}\n`);
      });
    } finally {
      signal?.removeEventListener("abort", stop);
      this.#clear();
    }
  }

  close(): void {
    this.#clear();
    if (this.#judge) endGroup(this.#judge);
    this.#judge = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** The judge's process, started if there is none. */
  #start(): ChildProcess {
    if (this.#judge) return this.#judge;
    const limits = { ...DEFAULT_LIMITS, cpuSeconds: 86_400 };
    const judge = this.#startPython("judge", limits, "pipe");
    this.#judge = judge;
    this.#judgeErrors = "";
    judge.stderr?.on("data", (chunk) => {
      this.#judgeErrors = `${this.#judgeErrors}${chunk}`.slice(-2000);
    });
    const onEnd = (why: string) => {
      if (this.#judge !== judge) return;
      this.#judge = undefined;
      // Only values that the program gave can bring it down: too large, or too deep.
      this.#running?.settle({
        status: "failed",
        detail: `the judge ended: ${this.#judgeErrors.trim().split("\n").at(-1) || why}`,
      });
    };
    judge.on("error", (cause) => {
      this.#running?.fail(new EvaluationError("EVAL_SANDBOX", `cannot start Python: ${cause.message}`, { cause }));
    });
    judge.on("exit", (code, signal) => onEnd(`${signal ?? `code ${code}`}`));
    eachLine(
      channelOf(judge),
      Number.POSITIVE_INFINITY,
      (line) => this.#onJudge(line),
      () => onEnd("no output"),
    );
    return judge;
  }

  #startPython(role: "judge" | "runner", limits: Limits, stderr: "pipe" | "ignore"): ChildProcess {
    const child = this.#sandbox.start(this.#python.command, limits, ["ignore", "ignore", stderr, "pipe"]);
    channelOf(child).write(this.#python.code[role]);
    return child;
  }

  #onJudge(line: Buffer): void {
    const running = this.#running;
    if (!running) return;
    const text = line.subarray(1);
    if (line[0] === START) this.#startRunner(running, JSON.parse(text.toString()).seconds);
    else if (line[0] === CALL) {
      if (running.ended) this.#tellEnd(running);
      else running.channel?.write(Buffer.concat([text, NEWLINE]));
    } else if (line[0] === VERDICT) {
      const verdict = JSON.parse(text.toString());
      if (verdict.status === "no tests") {
        running.fail(new EvaluationError("EVAL_DATA", "a test passed without calling the program: it tests nothing"));
      } else if (verdict.status === "ended") {
        const status = running.outOfTime ? "timeout" : "failed";
        running.settle({ status, detail: running.outOfTime ? "time limit" : `the process ended: ${running.exit}` });
      } else running.settle(verdict);
    }
  }

  #startRunner(running: Running, referenceSeconds: number): void {
    // EvalPlus: at most a minute a task, more where the canonical solution needs it.
    if (running.program.test.style === "evalplus") {
      running.limits.cpuSeconds = Math.max(running.limits.cpuSeconds, 4 * referenceSeconds + 1);
    }
    const runner = this.#startPython("runner", running.limits, "ignore");
    running.runner = runner;
    running.channel = channelOf(runner);
    const onEnd = () => {
      if (running.ended) return;
      running.ended = true;
      endGroup(runner);
      this.#tellEnd(running);
    };
    runner.on("error", (cause) => {
      running.fail(new EvaluationError("EVAL_SANDBOX", `cannot start a program: ${cause.message}`, { cause }));
    });
    runner.on("exit", (code, signal) => {
      running.exit ??= signal ?? `code ${code}`;
      if (code === 128 + SIGXCPU || signal === "SIGXCPU") running.outOfTime = true;
      onEnd();
    });
    const onLine = (line: Buffer) => {
      const judge = this.#judge;
      if (judge && this.#running === running)
        write(judge, Buffer.concat([Buffer.from(`${running.number}\t=`), line, NEWLINE]));
    };
    const onClosed = (tooLong: boolean) => {
      if (tooLong) running.exit = "it gave more than 256 MiB at once";
      if (tooLong) onEnd();
      // Otherwise its exit says more; a program that only closed the descriptor is ended after a moment.
      else setTimeout(onEnd, 1000).unref();
    };
    eachLine(running.channel, MAX_LINE, onLine, onClosed);
    running.wallTimer = setTimeout(
      () => {
        running.outOfTime = true;
        onEnd();
      },
      1000 * (3 * running.limits.cpuSeconds + 10),
    );
  }

  /** Says to the judge that the program's process is gone; a test that goes on without it is ended, too. */
  #tellEnd(running: Running): void {
    const judge = this.#judge;
    if (!judge || this.#running !== running) return;
    write(judge, `${running.number}\t!\n`);
    running.graceTimer ??= setTimeout(() => {
      this.#judge = undefined;
      endGroup(judge);
      running.settle({ status: "failed", detail: "its tests do not end" });
    }, 1000 * JUDGE_GRACE);
  }

  #end(then: (running: Running) => void): void {
    const running = this.#running;
    if (this.#judge) endGroup(this.#judge);
    this.#judge = undefined;
    if (running) then(running);
  }

  #clear(): void {
    const running = this.#running;
    this.#running = undefined;
    if (!running) return;
    clearTimeout(running.wallTimer);
    clearTimeout(running.graceTimer);
    running.ended = true;
    running.channel?.destroy();
    if (running.runner) endGroup(running.runner);
  }
}

const [START, CALL, VERDICT] = Buffer.from("SCV");
const NEWLINE = Buffer.from("\n");
const SIGXCPU = 24;

function channelOf(child: ChildProcess): Duplex {
  const channel = child.stdio[3] as Duplex;
  channel.on("error", () => {}); // the process has ended
  return channel;
}

function write(child: ChildProcess, text: string | Buffer): void {
  (child.stdio[3] as Duplex).write(text);
}

/** Calls back with each line, without its end, and once at the end or at a line that is too long. */
function eachLine(
  stream: Duplex,
  limit: number,
  onLine: (line: Buffer) => void,
  onEnd: (tooLong: boolean) => void,
): void {
  let parts: Buffer[] = [];
  let length = 0;
  stream.on("data", (chunk: Buffer) => {
    let from = 0;
    for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, from)) {
      parts.push(chunk.subarray(from, at));
      const line = parts.length === 1 ? parts[0] : Buffer.concat(parts);
      parts = [];
      length = 0;
      from = at + 1;
      onLine(line);
    }
    parts.push(chunk.subarray(from));
    length += chunk.length - from;
    if (length > limit) {
      stream.removeAllListeners("data");
      onEnd(true);
    }
  });
  stream.on("close", () => onEnd(false));
}
