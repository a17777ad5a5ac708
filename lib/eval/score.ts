import { availableParallelism } from "node:os";
import { runCommands } from "./command-session.js";
import { EvaluationError } from "./errors.js";
import { inParallel } from "./generate.js";
import type { Python } from "./python.js";
import { PythonSession, type Verdict } from "./python-session.js";
import type { Sandbox } from "./sandbox.js";
import { cutAtStop, type Problem, type Program } from "./task.js";

/** A completion that is to be judged. */
export interface ScoreItem {
  problem: Problem;
  promptId: string;
  stop: readonly string[];
  text: string;
}

export interface ScoreOptions {
  sandbox: Sandbox;
  python: Python;
  /** Programs at a time; default: one for each core. */
  concurrency?: number;
  memoryBytes?: number;
  signal?: AbortSignal;
  /** Called as each verdict is final. */
  onVerdict?: (index: number, verdict: Verdict) => void;
}

/** A program may take this many times the processor time of the authors' solution. */
const REFERENCE_FACTOR = 4;

/** The program of a completion, cut at the stop strings whatever the server did about them. */
export function programOf({ problem, promptId, stop, text }: ScoreItem): Program {
  return problem.program(cutAtStop(text, stop), promptId);
}

/**
 * Judges completions. Each program has a sandbox of its own. One that runs out of time is tried once more when nothing else runs,
 * with as much time as four times the authors' solution takes on this machine, if that is more than the benchmark allows; only
 * then it counts as a timeout, and not as a pass.
 *
 * @returns verdicts in the order of the items
 * @throws EvaluationError EVAL_DATA for tests that test nothing, EVAL_SANDBOX; the signal's reason
 */
export async function score(items: readonly ScoreItem[], options: ScoreOptions): Promise<Verdict[]> {
  const { concurrency = availableParallelism(), signal, onVerdict } = options;
  const verdicts = new Array<Verdict>(items.length);
  const late: number[] = [];
  using pool = new SessionPool(options);
  await inParallel(items.length, concurrency, async (i, place) => {
    signal?.throwIfAborted();
    const verdict = await pool.run(place, programOf(items[i]), 1, items[i].problem.id);
    if (verdict.status === "timeout") late.push(i);
    else onVerdict?.(i, verdict);
    verdicts[i] = verdict;
  });
  const seconds = new Map<string, number>();
  for (const i of late.sort((a, b) => a - b)) {
    const { problem } = items[i];
    if (!seconds.has(problem.id)) seconds.set(problem.id, await pool.referenceSeconds(problem));
    const program = programOf(items[i]);
    const allowed = REFERENCE_FACTOR * (seconds.get(problem.id) ?? 0);
    const factor = program.kind === "python" ? Math.max(1, allowed / program.seconds) : 1;
    verdicts[i] = await pool.run(0, program, factor, problem.id);
    onVerdict?.(i, verdicts[i]);
  }
  return verdicts;
}

/** The processes that judge, one for each place, started when they are needed. */
class SessionPool {
  readonly #options: ScoreOptions;
  readonly #sessions = new Map<number, PythonSession>();

  constructor(options: ScoreOptions) {
    this.#options = options;
  }

  async run(place: number, program: Program, factor: number, id: string, usage = false): Promise<Verdict> {
    const { sandbox, memoryBytes, signal } = this.#options;
    if (program.kind === "decided") return { status: program.passed ? "passed" : "failed" };
    if (program.kind === "commands") return runCommands(sandbox, program, { factor, memoryBytes, signal });
    const session = this.#sessions.get(place) ?? new PythonSession(sandbox, this.#options.python);
    this.#sessions.set(place, session);
    try {
      return await session.run(program, { seconds: factor * program.seconds, memoryBytes, signal, usage });
    } catch (error) {
      if (!(error instanceof EvaluationError)) throw error;
      throw new EvaluationError(error.code, `${id}: ${error.message}`, { cause: error });
    }
  }

  /** Processor time of the authors' solution; 0 where there is none or it does not pass. */
  async referenceSeconds(problem: Problem): Promise<number> {
    const solution = problem.canonical?.("base");
    if (solution === undefined) return 0;
    const program = problem.program(solution, "base");
    const verdict = await this.run(0, program, 100, problem.id, true);
    return verdict.status === "passed" ? (verdict.seconds ?? 0) : 0;
  }

  [Symbol.dispose](): void {
    for (const session of this.#sessions.values()) session.close();
  }
}
