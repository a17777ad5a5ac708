import type {
  EngineEvent,
  EngineStats,
  GenerateOptions,
  ModelFacts,
  RequestOptions,
  Reservation,
  ReserveOptions,
  ScoreOptions,
  ScoreRequestOptions,
  ScoreResult,
} from "../engine/index.js";
import type { Tokenizer } from "../tokenizer/index.js";

/** What the server needs of an engine: the part of `Engine` that it uses. */
export interface ServedEngine {
  readonly model: ModelFacts;
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
