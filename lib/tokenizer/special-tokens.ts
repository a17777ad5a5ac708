import { TokenizerError } from "./tokenizer-error.js";
import type { JsonObject } from "./tokenizer-files.js";

/** The roles that a special token can have here. */
export type SpecialTokenRole = "bos" | "eos" | "pad" | "mask" | "unk" | "fimPrefix" | "fimSuffix" | "fimMiddle";

/** Token ids by role; `eos` of the files may be several (Llama 3, Qwen), see Tokenizer.eosIds. */
export type SpecialTokenIds = Partial<Record<SpecialTokenRole, number>>;

/** A user's choice by role: a token or its id, where the files say nothing or something else. */
export type SpecialTokenOverrides = Partial<Record<SpecialTokenRole, string | number>>;

/**
 * Names under which a role is known, first match wins: Seed-Coder and Stable-DiffCoder, Qwen2.5-Coder, Llama 3 and
 * CodeLlama, StarCoder, DeepSeek-Coder, LLaDA and Dream.
 */
const KNOWN_NAMES: Record<SpecialTokenRole, readonly string[]> = {
  bos: ["<[begin▁of▁sentence]>", "<|begin_of_text|>", "<｜begin▁of▁sentence｜>", "<s>"],
  eos: ["<[end▁of▁sentence]>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<｜end▁of▁sentence｜>", "</s>"],
  pad: ["<[PAD▁TOKEN]>", "<|fim_pad|>", "<|finetune_right_pad_id|>", "<|endoftext|>", "<pad>", "[PAD]"],
  mask: ["<[MASK_TOKEN]>", "<|mask|>", "<|MASK|>", "<|mdm_mask|>", "<mask>", "[MASK]"],
  unk: ["<unk>", "[UNK]"],
  fimPrefix: ["<[fim-prefix]>", "<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "▁<PRE>", "<｜fim▁begin｜>"],
  fimSuffix: ["<[fim-suffix]>", "<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>", "▁<SUF>", "<｜fim▁hole｜>"],
  fimMiddle: ["<[fim-middle]>", "<|fim_middle|>", "<fim_middle>", "<fim-middle>", "▁<MID>", "<｜fim▁end｜>"],
};

/** What the roles are called when one is missing. */
const ROLE_NAMES: Record<SpecialTokenRole, string> = {
  bos: "begin-of-sequence token",
  eos: "end-of-sequence token",
  pad: "padding token",
  mask: "mask token",
  unk: "unknown token",
  fimPrefix: "FIM prefix token",
  fimSuffix: "FIM suffix token",
  fimMiddle: "FIM middle token",
};

/** Where a tokenizer looks its special tokens up. */
export interface SpecialTokenSources {
  readonly config: JsonObject;
  readonly specialTokensMap: JsonObject;
  readonly generation: JsonObject;
  tokenToId(token: string): number | undefined;
  readonly vocabSize: number;
}

/**
 * Finds the special tokens: the user's choice, then special_tokens_map.json and tokenizer_config.json (`mask_token`,
 * ...), then generation_config.json and config.json (`mask_token_id`, ...), then names that known models use.
 *
 * @returns ids by role, and every id that ends a text (eos first)
 * @throws TokenizerError TOKENIZER_TOKEN_MISSING if a chosen token is not in the vocabulary
 */
export function findSpecialTokens(
  sources: SpecialTokenSources,
  overrides: SpecialTokenOverrides = {},
): { ids: SpecialTokenIds; eosIds: number[] } {
  const ids: SpecialTokenIds = {};
  for (const role of Object.keys(KNOWN_NAMES) as SpecialTokenRole[]) {
    const id = chosenId(role, overrides[role], sources) ?? declaredId(role, sources) ?? knownId(role, sources);
    if (id !== undefined) ids[role] = id;
  }
  const declared = [sources.generation.eos_token_id].flat().filter(isId);
  const eosIds = overrides.eos === undefined ? declared : [];
  if (ids.eos !== undefined) eosIds.unshift(ids.eos);
  return { ids, eosIds: [...new Set(eosIds)] };
}

/** The error for a role that is needed and not there: it says what was looked for and how to choose a token. */
export function missingToken(role: SpecialTokenRole, dir: string): TokenizerError {
  return new TokenizerError(
    "TOKENIZER_TOKEN_MISSING",
    `the tokenizer at ${dir} has no ${ROLE_NAMES[role]}: neither its files name one nor is any of ` +
      `${KNOWN_NAMES[role].join(" ")} in the vocabulary. Choose one with { specialTokens: { ${role}: "..." } }`,
  );
}

function chosenId(
  role: SpecialTokenRole,
  chosen: string | number | undefined,
  sources: SpecialTokenSources,
): number | undefined {
  if (chosen === undefined) return undefined;
  // An id beyond the vocabulary is allowed: models have spare embedding rows, and some keep their mask there.
  if (typeof chosen === "number" && Number.isSafeInteger(chosen) && chosen >= 0) return chosen;
  const id = typeof chosen === "string" ? sources.tokenToId(chosen) : undefined;
  if (id !== undefined) return id;
  throw new TokenizerError(
    "TOKENIZER_TOKEN_MISSING",
    `specialTokens.${role}: ${JSON.stringify(chosen)} is not in the vocabulary (${sources.vocabSize} tokens)`,
  );
}

function declaredId(role: SpecialTokenRole, sources: SpecialTokenSources): number | undefined {
  const key = role.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`); // fimPrefix: fim_prefix_token
  for (const file of [sources.specialTokensMap, sources.config]) {
    const value = file[`${key}_token`];
    const token = typeof value === "string" ? value : (value as { content?: unknown } | null | undefined)?.content;
    const id = typeof token === "string" ? sources.tokenToId(token) : undefined;
    if (id !== undefined) return id;
  }
  const id = [sources.generation[`${key}_token_id`]].flat()[0];
  return isId(id) ? id : undefined;
}

function knownId(role: SpecialTokenRole, sources: SpecialTokenSources): number | undefined {
  for (const name of KNOWN_NAMES[role]) {
    const id = sources.tokenToId(name);
    if (id !== undefined) return id;
  }
  return undefined;
}

function isId(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
