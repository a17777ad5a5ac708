import { existsSync } from "node:fs";
import { constants } from "node:os";
import type { Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { Guard, type Interruption } from "./interruption.js";
import { LineSplitter, type RankOutput, type RankStream } from "./output.js";
import type { Program } from "./program.js";
import { type Ending, exitCodeOf, type OutputTaker, RankProcess } from "./rank-process.js";
import { freePort, globalRank, type Job, rankEnvironment } from "./topology.js";

/** Number of lines of standard error that are repeated for the process that failed first. */
const TAIL_LINES = 20;

/** Exit code if all processes succeeded but the expected file does not exist: EX_TEMPFAIL of sysexits.h (try again). */
const UNFINISHED = 75;

export interface Supervision {
  job: Job;
  program: Program;
  /** Environment of the ranks, without the variables specific to one rank. */
  env: NodeJS.ProcessEnv;
  graceSeconds: number;
  /** A file that exists once the program has completed all its work. */
  expected: string | undefined;
  output: RankOutput;
  interruption: Interruption;
  /** An additional destination for the output of a process. */
  log(rank: number, restartCount: number): Writable | undefined;
}

/**
 * Runs the ranks of this machine until all have succeeded, or one has failed and no restart is left. When it returns,
 * all their processes have ended.
 *
 * @returns the exit code: 0, or that of the first process that failed
 */
export async function supervise(supervision: Supervision): Promise<number> {
  const { job, output, interruption, graceSeconds } = supervision;
  const guard = new Guard(graceSeconds);
  try {
    for (let restart = 0; ; restart++) {
      const outcome = await new Start(supervision, guard, restart).run();
      // none was started
      if (outcome.endings.length === 0) return 128 + constants.signals[interruption.name ?? "SIGTERM"];
      if (interruption.again !== undefined) return 128 + constants.signals[interruption.again];
      const { failure } = outcome;
      if (failure !== undefined) output.say(describe(failure, outcome, interruption.name));
      else if (await isDone(supervision)) return 0;
      else output.say(`all processes succeeded, but ${supervision.expected} does not exist: the work is not complete`);
      if (interruption.name !== undefined || restart === job.maxRestarts)
        return failure ? exitCodeOf(failure) : UNFINISHED;
      output.say(`restarting all processes (${restart + 1} of ${job.maxRestarts})`);
    }
  } finally {
    await guard.close();
  }
}

/** Whether the expected file exists. If another machine wrote it, the file system may show it with a delay. */
async function isDone({ expected, interruption, job }: Supervision): Promise<boolean> {
  if (expected === undefined) return true;
  const patience = job.topology.nnodes > 1 ? 30 : 0;
  for (let second = 0; !existsSync(expected); second++) {
    if (second >= patience || interruption.name !== undefined) return false;
    await sleep(1000);
  }
  return true;
}

interface Outcome {
  failure: Ending | undefined;
  /** All endings, in chronological order. */
  endings: Ending[];
  seconds: number;
  /** The last lines of standard error of the process that failed. */
  tail: string[];
  killed: Set<number>;
}

/** One attempt: all ranks of this machine, from their start to the end of the last. */
class Start {
  readonly #supervision: Supervision;
  readonly #guard: Guard;
  readonly #restartCount: number;
  readonly #ranks: RankProcess[] = [];
  readonly #tails = new Map<number, Tail>();
  readonly #endings: Ending[] = [];
  readonly #killed = new Set<number>();
  /** The ranks that are being ended; ending is started once per rank. */
  readonly #ends = new Map<RankProcess, Promise<void>>();
  #failure: Ending | undefined;
  #seconds = 0;

  constructor(supervision: Supervision, guard: Guard, restartCount: number) {
    this.#supervision = supervision;
    this.#guard = guard;
    this.#restartCount = restartCount;
  }

  async run(): Promise<Outcome> {
    const { job, interruption } = this.#supervision;
    const { nproc, masterPort } = job.topology;
    const port = masterPort ?? (await freePort("127.0.0.1"));
    const begun = performance.now();
    if (interruption.name === undefined) for (let local = 0; local < nproc; local++) this.#start(local, port);
    interruption.listen(() => this.#interrupted());
    await Promise.all(
      this.#ranks.map(async (rank) => {
        const ending = await rank.ending;
        this.#endings.push(ending);
        if (exitCodeOf(ending) !== 0 && this.#failure === undefined) {
          this.#failure = ending;
          this.#seconds = (performance.now() - begun) / 1000;
          await Promise.all(this.#ranks.map((each) => this.#end(each)));
        } else {
          await this.#end(rank);
        }
        if (rank.pid !== undefined) this.#guard.remove(rank.pid);
        await rank.outputEnded();
      }),
    );
    interruption.listen(undefined);
    const failure = this.#failure;
    const tail = failure ? (this.#tails.get(failure.rank)?.lines() ?? []) : [];
    return { failure, endings: this.#endings, seconds: this.#seconds, tail, killed: this.#killed };
  }

  #start(local: number, port: number): void {
    const { job, program, env, output, log } = this.#supervision;
    const number = globalRank(job.topology, local);
    const variables = { ...env, ...rankEnvironment(job, local, port, this.#restartCount) };
    const rank = new RankProcess(number, program, variables);
    if (rank.pid !== undefined) this.#guard.add(rank.pid);
    this.#ranks.push(rank);
    const file = log(number, this.#restartCount);
    const tail = new Tail();
    this.#tails.set(number, tail);
    rank.onOutput("stdout", pump(output.stream(number, "stdout"), file));
    rank.onOutput("stderr", pump(output.stream(number, "stderr"), file, tail));
  }

  /** Ends a rank: SIGTERM, wait, SIGKILL. */
  #end(rank: RankProcess): Promise<void> {
    const begun = this.#ends.get(rank) ?? this.#askAndKill(rank);
    this.#ends.set(rank, begun);
    return begun;
  }

  async #askAndKill(rank: RankProcess): Promise<void> {
    const { interruption, graceSeconds } = this.#supervision;
    if (!rank.isAlive) return;
    // A rank that already received the signal from outside does not get it again, because that would end it
    // immediately.
    if (interruption.name === undefined) rank.signal("SIGTERM");
    if (await rank.gone(graceSeconds)) return;
    if (rank.signal("SIGKILL")) this.#killed.add(rank.rank);
    await rank.gone(2); // a zombie that its parent does not reap stays
  }

  #interrupted(): void {
    const { interruption, output } = this.#supervision;
    const { name, again } = interruption;
    if (again !== undefined) {
      output.say(`${again} again: killing all processes`);
      for (const rank of this.#ranks) rank.signal("SIGKILL");
    } else if (name !== undefined && this.#failure === undefined) {
      output.say(`${name}: waiting for the processes to end. Press Ctrl-C again to kill them.`);
      for (const rank of this.#ranks) rank.signal(name);
    }
  }
}

/** Sends the output of a process to the screen, to its log and to its tail. */
function pump(stream: RankStream, file: Writable | undefined, tail?: Tail): OutputTaker {
  return {
    data(chunk: Buffer): Writable | undefined {
      tail?.push(chunk);
      const fileHasRoom = !file?.writable || file.write(chunk); // a failed log is skipped
      if (!stream.write(chunk)) return stream.screen;
      return fileHasRoom ? undefined : file;
    },
    end: () => stream.end(),
  };
}

/** Keeps the last lines of a stream. */
class Tail {
  readonly #splitter = new LineSplitter();
  #lines: string[] = [];

  push(chunk: Buffer): void {
    this.#add(this.#splitter.push(chunk));
  }

  lines(): string[] {
    this.#add(this.#splitter.end());
    const end = this.#lines.findLastIndex((line) => line.trim() !== "");
    return this.#lines.slice(0, end + 1).map((line) => Buffer.from(line, "latin1").toString("utf8"));
  }

  #add(pieces: { text: string; isFrame: boolean }[]): void {
    const lines = pieces.filter(({ isFrame }) => !isFrame).map(({ text }) => text.slice(0, 500));
    this.#lines = [...this.#lines, ...lines].slice(-TAIL_LINES);
  }
}

/** Describes a failure: the first rank that failed, and how the others ended. */
function describe(
  failure: Ending,
  { endings, seconds, tail, killed }: Outcome,
  interruption: NodeJS.Signals | undefined,
): string {
  const how = shown(failure);
  if (interruption !== undefined && exitCodeOf(failure) === 128 + constants.signals[interruption]) {
    return `rank ${failure.rank} ended with ${how} at ${interruption}`; // it was stopped on request
  }
  const others = endings.filter((ending) => ending !== failure);
  const after = others.map(
    (ending) => `${ending.rank} (${killed.has(ending.rank) ? "SIGKILL after the grace" : shown(ending)})`,
  );
  return [
    `error: rank ${failure.rank} failed first: ${how}, after ${seconds.toFixed(1)} s`,
    ...(tail.length > 0 ? ["The end of its standard error:", ...tail.map((line) => `  ${line}`)] : []),
    ...(after.length > 0 ? [`The others: ${after.join(", ")}`] : []),
  ].join("\n");
}

function shown({ code, signal, error }: Ending): string {
  if (error) return `it could not be started (${error.message})`;
  return signal ?? `exit code ${code}`;
}
