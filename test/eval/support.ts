import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";
import type {
  AnswerGenerator,
  Generation,
  GenerationRequest,
  GeneratorInfo,
  PythonTest,
} from "../../lib/eval/index.js";
import { findPython, type Python } from "../../lib/eval/python.js";
import type { PythonProgram } from "../../lib/eval/python-session.js";
import { Sandbox } from "../../lib/eval/sandbox.js";

/** Why programs cannot be isolated here; undefined if they can. Such tests are skipped with it in their name. */
export const noSandbox: string | undefined = (() => {
  if (spawnSync("bwrap", ["--version"]).error) return "bubblewrap is not installed";
  try {
    Sandbox.create();
    return undefined;
  } catch (error) {
    return String((error as Error).message);
  }
})();

/** Where the benchmarks are; undefined: such tests are skipped. */
export const BENCHMARKS: string | undefined = process.env.DIFFCODER_BENCHMARKS || undefined;
export const noBenchmarks = noSandbox ?? (BENCHMARKS ? undefined : "DIFFCODER_BENCHMARKS is not set");

/** A suite's name, with the reason why it is skipped. */
export const named = (name: string, reason: string | undefined) => (reason ? `${name} (skipped: ${reason})` : name);

export function judges(): { sandbox: Sandbox; python: Python } {
  const python = findPython();
  return { python, sandbox: Sandbox.create({ readable: python.readable }) };
}

/** A folder that is gone after the file's tests. */
export function scratch(): string {
  const path = mkdtempSync(join(tmpdir(), "diffcoder-eval-"));
  afterAll(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

export const checkTest = (test: string, reference = "def f(x):\n    return x + 1\n"): PythonTest => ({
  ...{ style: "check", reference, entryPoint: "f" },
  test: `def check(candidate):\n${test.replace(/^/gm, "    ")}\n`,
});

export const program = (source: string, test: PythonTest, seconds = 3): PythonProgram => ({
  ...{ kind: "python", source, test, seconds },
});

/** HumanEval's format with problems of our own: of each kind of test that the real file has. */
export const RECORDS = [
  {
    task_id: "Own/0",
    prompt: 'def add(a, b):\n    """ Sum.\n    >>> add(1, 2)\n    3\n    """\n',
    entry_point: "add",
    canonical_solution: "    return a + b\n",
    test: "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate([1], [2]) == [1, 2]\n",
  },
  {
    task_id: "Own/1",
    prompt: 'def double(x):\n    return 2 * x\n\n\ndef halve(x):\n    """ Undoes double. """\n',
    entry_point: "halve",
    canonical_solution: "    return x / 2\n",
    test: "def check(candidate):\n    for i in range(20):\n        assert candidate(double(i)) == i\n",
  },
  {
    task_id: "Own/2",
    prompt: 'def pair(x):\n    """ x twice, as a tuple. """\n',
    entry_point: "pair",
    canonical_solution: "    return (x, x)\n",
    test: "def check(candidate):\n    assert candidate(1.5) == (1.5, 1.5)\n    assert candidate('a') != ['a', 'a']\n",
  },
];

/** A folder with {@link RECORDS} under the name that the task "humaneval" looks for. */
export function ownBenchmark(folder: string): string {
  const file = join(folder, "own.jsonl");
  writeFileSync(file, RECORDS.map((record) => `${JSON.stringify(record)}\n`).join(""));
  return file;
}

/** Answers as a function says, and counts what it is asked. */
export class FunctionGenerator implements AnswerGenerator {
  asked: string[] = [];
  readonly #answer: (request: GenerationRequest, index: number) => string;
  readonly #name: string;

  constructor(answer: (request: GenerationRequest, index: number) => string, name = "function") {
    this.#answer = answer;
    this.#name = name;
  }

  async info(): Promise<GeneratorInfo> {
    return { kind: "model", name: this.#name };
  }

  async complete(
    requests: readonly GenerationRequest[],
    { signal, onDone }: { signal?: AbortSignal; onDone: (index: number, generation: Generation) => void },
  ): Promise<void> {
    for (const [index, request] of requests.entries()) {
      signal?.throwIfAborted();
      this.asked.push(request.problem.id);
      onDone(index, { text: this.#answer(request, index), finishReason: "stop" });
    }
  }
}
