import type { EngineErrorCode } from "./errors.js";
import { EngineError } from "./errors.js";
import type { EngineSettings, ScoreSettings } from "./options.js";
import type { EngineRequest } from "./request.js";
import type { EngineEvent, EngineStats, ModelFacts, ScoreResult } from "./types.js";

/** What the engine's thread or process is told. */
export type CoreMessage =
  | { kind: "load"; model: string; settings: EngineSettings }
  | { kind: "generate"; request: EngineRequest }
  | { kind: "abort"; key: number }
  | { kind: "score"; key: number; tokens: Int32Array; settings: ScoreSettings }
  | { kind: "stats" }
  | { kind: "close" };

export type CoreStats = Omit<EngineStats, "state">;

/** What it says. */
export type CoreReply =
  | { kind: "ready"; facts: ModelFacts; stats: CoreStats }
  | { kind: "failed"; error: ErrorParts }
  | { kind: "reports"; reports: WireReport[]; stats?: CoreStats }
  | { kind: "score"; key: number; result?: ScoreResult; error?: ErrorParts }
  | { kind: "stats"; stats: CoreStats }
  | { kind: "closed" };

export interface WireReport {
  key: number;
  events: EngineEvent[];
  error?: ErrorParts;
  last: boolean;
}

/** An error as it crosses threads. */
export interface ErrorParts {
  code: EngineErrorCode;
  message: string;
}

export function errorParts(error: unknown): ErrorParts {
  if (error instanceof EngineError) return { code: error.code, message: error.message };
  return { code: "ENGINE_INTERNAL", message: error instanceof Error ? error.message : String(error) };
}

export function errorFromParts({ code, message }: ErrorParts): EngineError {
  return new EngineError(code, message);
}
