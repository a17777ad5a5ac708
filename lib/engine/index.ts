/** Decoding: one request in this thread, or many at once with a paged KV cache, prefix caching and continuous batching. */
export { Engine, type EngineCreateOptions } from "./engine.js";
export { EngineError, type EngineErrorCode } from "./errors.js";
export { generateAutoregressive, generateBlocks } from "./generate.js";
export {
  type AutoregressiveGenerationOptions,
  autoregressiveGenerationSchema,
  type BlockGenerationOptions,
  blockGenerationSchema,
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
export type { Prompt } from "./request.js";
export type { Reservation } from "./reservation.js";
export { type SamplingParams, sampleToken } from "./sample-token.js";
export type {
  AdmissionStats,
  Choice,
  CommittedToken,
  DenoiseEvent,
  DoneEvent,
  EngineEvent,
  EngineStats,
  ModelInfo,
  RequestOptions,
  ScoreRequestOptions,
  ScoreResult,
  StartEvent,
  TextEvent,
  Timings,
  TopLogprob,
  Usage,
} from "./types.js";
