import { createHash } from "node:crypto";
import { packageVersion } from "../torch/package-version.js";
import { EvaluationError, parseOptions } from "./errors.js";
import type { AnswerGenerator, GenerationRequest } from "./generate.js";
import { type EvaluationOptions, evaluationSchema, type Scoring, scoringSchema } from "./options.js";
import { bootstrap, passAtK } from "./pass-at-k.js";
import { findPython, type Python } from "./python.js";
import type { Verdict } from "./python-session.js";
import {
  type EvalSample,
  type EvalSummary,
  ResultsFolder,
  type RunDescription,
  type SampleResult,
  sampleKey,
} from "./results.js";
import { Sandbox } from "./sandbox.js";
import { type ScoreItem, score } from "./score.js";
import { type LoadedTask, loadTask, type Problem, type Task, taskId } from "./task.js";

/** How far a run is. */
export interface EvalProgress {
  phase: "generate" | "score";
  done: number;
  total: number;
}

export interface RunHooks {
  signal?: AbortSignal;
  onProgress?: (progress: EvalProgress) => void;
}

/**
 * Evaluates a model on a benchmark: writes answers, judges them, and keeps both in a folder. A run that was stopped continues
 * with the answers that are missing.
 *
 * @throws EvaluationError EVAL_OPTIONS, EVAL_DATA, EVAL_SANDBOX, EVAL_RUN_MISMATCH, EVAL_RESULTS, EVAL_MODEL; the signal's reason
 */
export async function evaluate(
  task: Task,
  generator: AnswerGenerator,
  options: EvaluationOptions,
  hooks: RunHooks = {},
): Promise<EvalSummary> {
  const settings = parseOptions("evaluate", evaluationSchema, options);
  const loaded = loadTask(task, dataFolder(task, settings.data));
  const { prompt: promptId, samples: n, seed, limit } = settings;
  const stop = stopOf(task, promptId);
  const judges = prepareScoring(settings); // before hours of generation
  const model = await generator.info(hooks.signal);
  const maxTokens = settings.maxTokens ?? task.maxTokens;
  const { temperature, topP, topK, mode, blockSize, steps, threshold } = settings;
  const folder = new ResultsFolder(settings.outputDir);
  const description: RunDescription = {
    format: 1,
    task: taskId(loaded, promptId),
    benchmark: task.name,
    prompt: promptId,
    data: { file: loaded.file, sha256: loaded.sha256 },
    model,
    decoding: { temperature, topP, topK, maxTokens, mode, blockSize, steps, threshold },
    ...{ stop, seed, samples: n, limit },
  };
  const known = folder.open(description);
  const wanted = problemsOf(loaded, limit).flatMap((problem) =>
    Array.from({ length: n }, (_, sample) => ({ problem, sample })),
  );
  const missing = wanted.filter(({ problem, sample }) => !known.has(sampleKey({ problem: problem.id, sample })));
  const requests: GenerationRequest[] = missing.map(({ problem, sample }) => ({
    ...{ problem, promptId, stop, maxTokens },
    prompt: problem.prompts[promptId],
    seed: seedOf(seed, problem.id, sample),
  }));
  let done = wanted.length - missing.length;
  hooks.onProgress?.({ phase: "generate", done, total: wanted.length });
  const onDone = (index: number, generation: Omit<EvalSample, "problem" | "sample">) => {
    const { problem, sample } = missing[index];
    folder.append({ problem: problem.id, sample, ...generation });
    hooks.onProgress?.({ phase: "generate", done: ++done, total: wanted.length });
  };
  if (requests.length > 0) await generator.complete(requests, { signal: hooks.signal, onDone });
  return scoreRun(folder, description, loaded, settings.k, judges, hooks);
}

/**
 * Judges the answers of a run again, without a model.
 *
 * @param path the run's folder
 * @throws EvaluationError EVAL_OPTIONS, EVAL_RESULTS, EVAL_RUN_MISMATCH if the data are not those of the run, EVAL_DATA, EVAL_SANDBOX
 */
export async function rescore(
  task: Task,
  path: string,
  options: Partial<Scoring> & { data?: string; k?: readonly number[] } = {},
  hooks: RunHooks = {},
): Promise<EvalSummary> {
  const { data, k = [1], ...scoring } = options;
  const folder = new ResultsFolder(path);
  const description = folder.description();
  const loaded = loadTask(task, dataFolder(task, data));
  const now = taskId(loaded, description.prompt);
  if (now !== description.task || loaded.sha256 !== description.data.sha256) {
    throw new EvaluationError(
      "EVAL_RUN_MISMATCH",
      `${path} holds answers to ${description.task}, and the data are ${now}`,
    );
  }
  const high = k.find((each) => each > description.samples);
  if (high !== undefined) passAtK({ n: description.samples, correct: 0 }, high);
  return scoreRun(
    folder,
    description,
    loaded,
    k,
    prepareScoring(parseOptions("rescore", scoringSchema, scoring)),
    hooks,
  );
}

interface Judges extends Pick<Scoring, "concurrency"> {
  sandbox: Sandbox;
  python: Python;
  memoryBytes: number;
}

/** @throws EvaluationError EVAL_SANDBOX */
function prepareScoring({ python: path, allowUnsandboxed, memory, concurrency }: Scoring): Judges {
  const python = findPython(path);
  const sandbox = Sandbox.create({ allowUnsandboxed, readable: python.readable });
  return { sandbox, python, memoryBytes: memory, concurrency };
}

async function scoreRun(
  folder: ResultsFolder,
  description: RunDescription,
  loaded: LoadedTask,
  k: readonly number[],
  judges: Judges,
  { signal, onProgress }: RunHooks,
): Promise<EvalSummary> {
  const samples = folder.samples();
  const { prompt: promptId, samples: n, limit, seed } = description;
  const stop = stopOf(loaded.task, promptId);
  const problems = problemsOf(loaded, limit);
  const items = problems.flatMap((problem) =>
    Array.from({ length: n }, (_, sample): ScoreItem & { sample: EvalSample } => {
      const found = samples.get(sampleKey({ problem: problem.id, sample }));
      if (!found)
        throw new EvaluationError(
          "EVAL_RESULTS",
          `${folder.path} has no answer ${sample} to ${problem.id}: continue the run first`,
        );
      return { problem, promptId, stop, text: found.text, sample: found };
    }),
  );
  let done = 0;
  onProgress?.({ phase: "score", done, total: items.length });
  const onVerdict = () => onProgress?.({ phase: "score", done: ++done, total: items.length });
  const verdicts = await score(items, { ...judges, signal, onVerdict });
  const results = items.map(
    ({ sample }, i): SampleResult => ({ problem: sample.problem, sample: sample.sample, ...verdicts[i] }),
  );
  const count = (status: Verdict["status"]) => verdicts.filter((verdict) => verdict.status === status).length;
  const run = results.filter(({ status }) => status !== "not-run");
  const tooLong = items.filter(({ sample }) => sample.finishReason === "prompt-too-long");
  const estimate = (each: number, passes: (result: SampleResult) => boolean) =>
    bootstrap(
      talliesOf(run, passes).map((tally) => passAtK(tally, each)),
      seed,
    );
  const parts = [...new Set(run.flatMap(({ parts: given = {} }) => Object.keys(given)))];
  const summary: EvalSummary = {
    ...description,
    versions: { "stable-diffcoder": packageVersion(), node: process.versions.node, python: judges.python.version },
    problems: problems.length,
    passAt: Object.fromEntries(
      run.length === 0 ? [] : k.map((each) => [each, estimate(each, ({ status }) => status === "passed")]),
    ),
    partsPassAt1: Object.fromEntries(
      parts.map((part) => [part, estimate(1, (result) => result.parts?.[part] === true)]),
    ),
    counts: {
      ...{ passed: count("passed"), failed: count("failed"), timeout: count("timeout"), notRun: count("not-run") },
      promptTooLong: tooLong.length,
    },
    notRun: [...new Set(results.flatMap(({ status, detail }) => (status === "not-run" ? [detail ?? ""] : [])))],
    isolated: judges.sandbox.isolated,
  };
  folder.writeScores(results, summary);
  return summary;
}

/** By problem how many answers there are and how many of them pass. */
function talliesOf(results: readonly SampleResult[], passes: (result: SampleResult) => boolean) {
  const tallies = new Map<string, { n: number; correct: number }>();
  for (const result of results) {
    const tally = tallies.get(result.problem) ?? { n: 0, correct: 0 };
    tallies.set(result.problem, { n: tally.n + 1, correct: tally.correct + (passes(result) ? 1 : 0) });
  }
  return [...tallies.values()];
}

function dataFolder(task: Task, given: string | undefined): string {
  const data = given ?? process.env.DIFFCODER_BENCHMARKS;
  if (data) return data;
  const where = "give --data PATH (data), or set DIFFCODER_BENCHMARKS to the folder of the benchmarks";
  throw new EvaluationError("EVAL_DATA", `${task.name}: ${where}. docs/evaluation.md says where its file is from`);
}

/** @throws EvaluationError EVAL_OPTIONS for a prompt that the benchmark does not have */
function stopOf(task: Task, promptId: string): readonly string[] {
  if (Object.hasOwn(task.stop, promptId)) return task.stop[promptId];
  const allowed = Object.keys(task.stop).join(", ");
  throw new EvaluationError("EVAL_OPTIONS", `prompt: ${task.name} has no prompt "${promptId}"; allowed: ${allowed}`);
}

function problemsOf({ problems }: LoadedTask, limit: number | undefined): readonly Problem[] {
  return problems.slice(0, limit);
}

/** Equal for equal arguments, whatever else is generated: 48 bits, which every server takes. */
function seedOf(seed: number, problem: string, sample: number): number {
  return createHash("sha256").update(`${seed}\0${problem}\0${sample}`).digest().readUIntBE(0, 6);
}
