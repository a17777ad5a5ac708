import type { GenerateSettings } from "./options.js";

/** A request as it goes to the engine's thread: checked, its prompt as ids. */
export interface EngineRequest {
  /** Unique among the requests of an engine. */
  key: number;
  prompt: Int32Array;
  settings: GenerateSettings & { seed: number; blockSize: number };
  /** Every id that ends the text. */
  stopIds: number[];
  /** Ids that are never chosen, besides the mask. */
  forbidden: number[];
  /** performance.now()-like milliseconds that passed before it reached the thread are counted from this Date.now(). */
  arrival: number;
}
