import type { GenerateSettings } from "./options.js";

/** A request as it goes to the engine's thread: checked, its prompt as ids. */
export interface EngineRequest {
  /** Unique among the requests of an engine. */
  key: number;
  prompt: Int32Array;
  settings: GenerateSettings & { seed: number | bigint; blockSize: number };
  /** Every id that ends the text. */
  stopIds: number[];
  /** Stop strings that are special tokens, by id: they end the text, too. */
  stopTokens: [id: number, text: string][];
  /** Ids that are never chosen, besides the mask. */
  forbidden: number[];
  /** Date.now() when the request was given to the engine. */
  arrival: number;
}
