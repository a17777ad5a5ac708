import { createHash } from "node:crypto";
import type { FastifyBaseLogger, FastifyReply, FastifyRequest } from "fastify";
import type {
  EngineEvent,
  EngineStats,
  GenerateOptions,
  ModelInfo,
  RequestOptions,
  Reservation,
  ReserveOptions,
  ScoreOptions,
  ScoreRequestOptions,
  ScoreResult,
} from "../engine/index.js";
import type { Tokenizer } from "../tokenizer/index.js";
import { ApiError } from "./errors.js";
import type { Metrics } from "./operations/metrics.js";
import type { RequestScope } from "./operations/request-scope.js";
import type { ServerSettings } from "./options.js";
import type { PromptPool } from "./prompts/prompt-pool.js";

/** What the routes share. */
export interface ServerContext {
  readonly settings: ServerSettings;
  readonly metrics: Metrics;
  readonly log: FastifyBaseLogger;
  readonly version: string;
  /** Seconds since 1970 when the server started: `created` of the model. */
  readonly created: number;
  /** Names of the model, the first being its own; known before the engine is ready. */
  readonly modelNames: readonly string[];
  /** Names of the API keys that requests came with. */
  readonly keyNames: WeakMap<FastifyRequest, string>;
  /** Requests that have not ended. */
  readonly openRequests: Set<RequestScope>;
  /** Unknown fields of requests that the log has already reported. */
  readonly ignoredNames: Set<string>;
  readonly state: ServerState;
}

/** What changes while the server runs. */
export interface ServerState {
  engine: TextEngine | undefined;
  /** Where prompts are read; there is one as soon as there is an engine. */
  prompts: PromptPool | undefined;
  /** There will be no engine: its promise was rejected, or it cannot be served. */
  failed: boolean;
  fingerprint: string;
  /** No request is taken any more. */
  draining: boolean;
}

/**
 * The engine, for a request that comes now.
 *
 * @throws ApiError loading, draining, engine_unavailable
 */
export function readyEngine(context: ServerContext): TextEngine {
  if (context.state.draining) {
    throw new ApiError("draining", "the server is being stopped; another instance may answer", { retryAfter: 1 });
  }
  return runningEngine(context);
}

/**
 * The engine, for a request that was taken: a server that is being stopped still answers it.
 *
 * @throws ApiError loading, engine_unavailable
 */
export function runningEngine({ state }: ServerContext): TextEngine {
  const { engine } = state;
  if (state.failed) throw new ApiError("engine_unavailable", "the model could not be loaded");
  if (!engine) throw new ApiError("loading", "the model is being loaded; try again in a moment", { retryAfter: 2 });
  // While a dead worker is replaced ("starting"), requests wait for the next one.
  const now = engine.stats().state;
  if (now === "dead" || now === "closed" || now === "draining") {
    throw new ApiError("engine_unavailable", "the engine does not run");
  }
  return engine;
}

/** Seconds after which a client should retry, from the engine's queue; 1 while there is no engine. */
export function retryAfterOf({ state: { engine } }: ServerContext): number {
  return engine?.stats().admission.retryAfter ?? 1;
}

/**
 * Whose prefixes a request may find in the cache: those of its API key, and of its own salt if it names one. Else the
 * count of cached tokens would tell what others have asked.
 */
export function cacheSaltOf(
  { settings, keyNames }: ServerContext,
  http: FastifyRequest,
  salt?: string,
): string | undefined {
  const key = settings.sharedPrefixCache ? undefined : keyNames.get(http);
  if (key === undefined && salt === undefined) return undefined;
  return createHash("sha256")
    .update(JSON.stringify([key, salt]))
    .digest("base64url");
}

/** @throws ApiError model_not_found */
export function checkModel({ modelNames }: ServerContext, model: string | null | undefined): string {
  if (model === null || model === undefined || model === "") return modelNames[0];
  if (modelNames.includes(model)) return model;
  const there = modelNames.map((name) => JSON.stringify(name)).join(", ");
  throw new ApiError("model_not_found", `the model ${JSON.stringify(model)} does not exist; there is: ${there}`, {
    param: "model",
  });
}

/** What the server needs of an engine: the part of `Engine` that it uses. */
export interface ServedEngine {
  readonly model: ModelInfo;
  readonly tokenizer: Tokenizer | undefined;
  /** Admits a request; the options of the calls that belong to it have the reservation. */
  reserve(size: ReserveOptions): Reservation;
  generate(prompt: string | number[], options: GenerateOptions, request?: RequestOptions): AsyncIterable<EngineEvent>;
  score(tokens: number[], options?: ScoreOptions, request?: ScoreRequestOptions): Promise<ScoreResult>;
  stats(): EngineStats;
}

/** One that can be asked in words. */
export type TextEngine = ServedEngine & { readonly tokenizer: Tokenizer };

export function hasTokenizer(engine: ServedEngine): engine is TextEngine {
  return engine.tokenizer !== undefined;
}

/**
 * OpenAI's `system_fingerprint`: what besides the request decides a text. Equal requests with a seed and equal
 * fingerprints give equal texts.
 */
export function systemFingerprint(facts: ModelInfo, tokenizerHash: string, version: string): string {
  const { vocabSize, parameters, maxLength, maskId, dtype, device, quantization, blockSize } = facts;
  const weights = quantization ?? "full";
  const kind = device.replace(/:\d+$/, "");
  const what = [version, tokenizerHash, vocabSize, parameters, maxLength, maskId, dtype, kind, weights, blockSize];
  return `fp_${createHash("sha256").update(JSON.stringify(what)).digest("hex").slice(0, 12)}`;
}

/** Names that are warned of; clients can send any number of them. */
const MOST_NAMES = 256;

/** Says in the log, once for each name, that a field of requests is not known and does nothing. */
export function warnIgnored({ ignoredNames: known, log }: ServerContext, names: readonly string[]): void {
  for (const name of names) {
    if (known.has(name) || known.size >= MOST_NAMES) continue;
    known.add(name);
    const message = "requests have a field that is not known and has no effect (--strict refuses such requests)";
    log.warn({ field: name.slice(0, 128) }, message);
  }
}

/** Names the fields that do nothing in the answer's head. */
export function noteIgnored(reply: FastifyReply, names: readonly string[]): void {
  if (names.length === 0) return;
  const written = names.slice(0, 16).map((name) => encodeURIComponent(Buffer.from(name.slice(0, 64)).toString()));
  reply.header("x-ignored-parameters", written.join(", "));
}
