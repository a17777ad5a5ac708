import type { Tokenizer } from "../tokenizer/tokenizer.js";
import type { GenerateSettings } from "./options.js";
import type { ModelFacts } from "./types.js";

/** A request as it goes to the engine's thread: checked, its prompt as ids. */
export interface EngineRequest {
  /** Unique among the requests of an engine. */
  key: number;
  prompt: Int32Array;
  settings: GenerateSettings & { seed: number | bigint; blockSize: number };
  /** Every id that ends the text. */
  stopTokenIds: number[];
  /** Stop strings that are special tokens, by id: they end the text, too. */
  stopTokens: [id: number, text: string][];
  /** Ids that are never chosen, besides the mask. */
  forbidden: number[];
  /** Date.now() when the request was given to the engine. */
  arrival: number;
}

/**
 * What ends a text, and what may never be chosen. Special tokens are not part of the text, so a stop string that is one
 * ends it by its id.
 */
export function stopsOf(
  { stopTokenIds, ignoreEos, canvas, edit, stop }: GenerateSettings,
  { eosIds, vocabSize }: ModelFacts,
  tokenizer: Tokenizer | undefined,
): Pick<EngineRequest, "stopTokenIds" | "stopTokens" | "forbidden"> {
  const stopTokens = stop.flatMap((text): [number, string][] => {
    const id = tokenizer?.tokenToId(text);
    return id !== undefined && id < vocabSize && tokenizer?.isSpecial(id) ? [[id, text]] : [];
  });
  if (canvas === "fixed" || edit !== undefined) {
    const named = new Set(stopTokens.map(([id]) => id));
    const ends = [...new Set([...eosIds, ...(stopTokenIds ?? [])])];
    return { stopTokenIds: [], stopTokens, forbidden: ends.filter((id) => !named.has(id)) };
  }
  return { stopTokenIds: stopTokenIds ?? (ignoreEos ? [] : eosIds), stopTokens, forbidden: [] };
}
