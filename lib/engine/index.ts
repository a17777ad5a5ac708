/** Decoding: one request in this thread, or many at once with a paged KV cache, prefix caching and continuous batching. */

export type { Reservation } from "./admission.js";
export { Engine, type EngineCreateOptions } from "./engine.js";
export { EngineError, type EngineErrorCode } from "./errors.js";
export { collectChoices } from "./event-queue.js";
export { generateAutoregressive, generateBidirectional, generateBlocks } from "./generate.js";
export {
  type AutoregressiveGenerationOptions,
  autoregressiveGenerationSchema,
  type BidirectionalGenerationOptions,
  type BlockGenerationOptions,
  bidirectionalGenerationSchema,
  blockGenerationSchema,
  type EngineOptions,
  engineOptionsSchema,
  type GenerateOptions,
  type GenerateSettings,
  generateOptionsSchema,
  type RequestOptions,
  type ReserveOptions,
  remaskSchema,
  type ScoreOptions,
  type ScoreRequestOptions,
  scoreOptionsSchema,
} from "./options.js";
export type { Prompt } from "./request.js";
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
  ScoreResult,
  StartEvent,
  TextEvent,
  Timings,
  TopLogprob,
  Usage,
} from "./types.js";
