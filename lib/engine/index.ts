/** Serving: many requests at once over one model, with paged memory, a prefix cache and continuous batching. No HTTP. */
export { Engine, type EngineCreateOptions } from "./engine.js";
export { EngineError, type EngineErrorCode } from "./errors.js";
export {
  type CommitOptions,
  commitSchema,
  type EngineOptions,
  engineOptionsSchema,
  type GenerateOptions,
  type GenerateSettings,
  generateOptionsSchema,
  type ReserveOptions,
  remaskSchema,
  type ScoreOptions,
  scoreOptionsSchema,
} from "./options.js";
export type { Prompt } from "./prompt.js";
export type { Reservation } from "./reservation.js";
export type {
  AdmissionStats,
  Choice,
  CommittedToken,
  DenoiseEvent,
  DoneEvent,
  EngineEvent,
  EngineStats,
  ModelFacts,
  RequestOptions,
  ScoreRequestOptions,
  ScoreResult,
  StartEvent,
  TextEvent,
  Timings,
  TopLogprob,
  Usage,
} from "./types.js";
