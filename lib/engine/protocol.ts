import { messageOf } from "../torch/errors.js";
import type { EngineErrorCode } from "./errors.js";
import { EngineError } from "./errors.js";
import type { EngineSettings } from "./options.js";
import type { EngineRequest } from "./request.js";
import type { ScoreRequest } from "./score-queue.js";
import type { CoreStats } from "./stats.js";
import type { EngineEvent, ModelInfo, ScoreResult } from "./types.js";

/** What the engine's thread or process is told. */
export type CoreMessage =
  | { kind: "load"; model: string; settings: EngineSettings }
  | { kind: "generate"; request: EngineRequest }
  | { kind: "abort"; key: number; error?: ErrorParts }
  | { kind: "score"; request: ScoreRequest }
  | { kind: "close" };

/** Where a child process writes what it says, as frames, and signs of life, as bytes. */
export const REPLIES_FD = 4;
export const PULSE_FD = 5;

/** What it says. */
export type CoreReply =
  | { kind: "ready"; info: ModelInfo; stats: CoreStats }
  | { kind: "failed"; error: ErrorParts }
  | { kind: "reports"; reports: WireReport[]; stats?: CoreStats }
  | { kind: "closed" };

export interface WireReport {
  key: number;
  events: EngineEvent[];
  /** What a score came to. */
  score?: ScoreResult;
  error?: ErrorParts;
  last: boolean;
}

/** An error as it crosses threads. */
export interface ErrorParts {
  code: EngineErrorCode;
  message: string;
  details?: EngineError["details"];
}

/** @param otherwise the code of what is not an error of the engine's */
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
