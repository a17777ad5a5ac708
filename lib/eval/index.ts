/** Benchmarks of code: prompts, sandboxed programs and scores. */

export { EngineGenerator, hashCheckpoint } from "./engine-generator.js";
export { EvaluationError, type EvaluationErrorCode } from "./errors.js";
export {
  type AnswerGenerator,
  CanonicalGenerator,
  type Generation,
  type GenerationRequest,
  type GeneratorInfo,
} from "./generate.js";
export {
  type Decoding,
  decodingSchema,
  type EvaluationOptions,
  evaluationSchema,
  type Scoring,
  scoringSchema,
} from "./options.js";
export { bootstrap, type Estimate, passAtK, type Tally } from "./pass-at-k.js";
export type { Verdict } from "./python-session.js";
export type { EvalSample, EvalSummary, RunDescription, SampleResult } from "./results.js";
export { type EvalProgress, evaluate, type RunHooks, rescore } from "./run.js";
export { type EvalServerOptions, ServerGenerator } from "./server-generator.js";
export {
  cutAtStop,
  type EvalPrompt,
  fencedCode,
  inFence,
  jsonLines,
  type LoadedTask,
  loadTask,
  type Problem,
  type Program,
  type PythonTest,
  type Task,
  taskId,
} from "./task.js";
export { TASKS, taskNamed } from "./tasks/index.js";
