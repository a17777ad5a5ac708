import { TokenizerError } from "./tokenizer-error.js";
import type { JsonObject } from "./tokenizer-files.js";

/** The model's own files; undefined where one is not there. */
export interface ModelTokenFiles {
  readonly dir: string;
  /** config.json */
  readonly config: JsonObject | undefined;
  /** generation_config.json */
  readonly generation: JsonObject | undefined;
}

/**
 * The ids that end a text, as `generate` of transformers 5.24 takes them: `eos_token_id` of generation_config.json; if
 * there is no such file, of config.json. One id or a list; null, or no such key, means that no token ends a text. Ids below
 * 0 are none.
 *
 * @returns undefined if neither file is there
 * @throws TokenizerError TOKENIZER_FILE_INVALID for a value of another kind
 */
export function findEndIds({ dir, config, generation }: ModelTokenFiles): number[] | undefined {
  const source = generation ?? config;
  if (source === undefined) return undefined;
  const value = source.eos_token_id ?? [];
  const ids = Array.isArray(value) ? value : [value];
  if (!ids.every(Number.isSafeInteger)) {
    const file = `${dir}/${generation ? "generation_config.json" : "config.json"}`;
    const message = `${file}: eos_token_id is ${JSON.stringify(value)}, expected an id, a list of ids, or null`;
    throw new TokenizerError("TOKENIZER_FILE_INVALID", message);
  }
  return [...new Set(ids as number[])].filter((id) => id >= 0);
}

/** One id that the model's files give for a role, such as `pad_token_id`: of generation_config.json before config.json. */
export function findModelId({ config, generation }: ModelTokenFiles, key: string): number | undefined {
  for (const file of [generation, config]) {
    const [id] = [file?.[key]].flat();
    if (typeof id === "number" && Number.isSafeInteger(id) && id >= 0) return id;
  }
  return undefined;
}
