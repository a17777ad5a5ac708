import { messageOf } from "../torch/errors.js";
import { EngineError, type EngineErrorCode } from "./errors.js";
import type { EngineSettings } from "./options.js";
import type { EngineRequest } from "./request.js";
import type { ScoreRequest } from "./score-queue.js";
import type { CoreStats, EngineEvent, ModelInfo, ScoreResult } from "./types.js";

/** What the engine's core does on request, in a thread, a child process or this thread. */
export interface CoreHandlers {
  load(argument: { model: string; settings: EngineSettings }): Promise<{ info: ModelInfo; stats: CoreStats }>;
  generate(request: EngineRequest): void;
  abort(argument: { key: number; error?: ErrorParts }): void;
  score(request: ScoreRequest): void;
  /** Ends all requests and the worker. */
  close(argument: undefined): Promise<void>;
}

/** The event of a core: what its passes produced, and now and then its stats. */
export interface CoreReports {
  reports: WireReport[];
  stats?: CoreStats;
}

export interface WireReport {
  key: number;
  events: EngineEvent[];
  /** The result of a score. */
  score?: ScoreResult;
  error?: ErrorParts;
  last: boolean;
}

/** An error as plain data, to be sent between threads. */
export interface ErrorParts {
  code: EngineErrorCode;
  message: string;
  details?: EngineError["details"];
}

/** @param otherwise the code for any error but an EngineError */
export function errorParts(error: unknown, otherwise: EngineErrorCode = "ENGINE_INTERNAL"): ErrorParts {
  if (error instanceof EngineError) {
    const { code, message, details } = error;
    return { code, message, details };
  }
  return { code: otherwise, message: messageOf(error) };
}

export function errorFromParts({ code, message, details }: ErrorParts): EngineError {
  return new EngineError(code, message, { details });
}
