import type { NamedTokens } from "./named-tokens.js";
import { findEndIds, findModelId, type ModelTokenFiles } from "./named-tokens.js";
import { TokenizerError } from "./tokenizer-error.js";

/** The roles of special tokens. */
export type SpecialTokenRole = "bos" | "eos" | "pad" | "mask" | "unk" | "fimPrefix" | "fimSuffix" | "fimMiddle";

/** Token ids by role. The ids that end a text may differ from eos (Llama 3, Qwen), see Tokenizer.eosIds. */
export type SpecialTokenIds = Partial<Record<SpecialTokenRole, number>>;

/** The user's choice by role: a token or its id, which overrides the files. */
export type SpecialTokenOverrides = Partial<Record<SpecialTokenRole, string | number>>;

/**
 * Names of tokens whose roles transformers does not define; the first match is used: Seed-Coder and Stable-DiffCoder,
 * Qwen2.5-Coder, CodeLlama, StarCoder, DeepSeek-Coder, LLaDA and Dream. They apply if the files do not define the role.
 * Other roles are never guessed.
 */
const KNOWN_NAMES: Partial<Record<SpecialTokenRole, readonly string[]>> = {
  mask: ["<[MASK_TOKEN]>", "<|mask|>", "<|MASK|>", "<|mdm_mask|>", "<mask>", "[MASK]"],
  fimPrefix: ["<[fim-prefix]>", "<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "▁<PRE>", "<｜fim▁begin｜>"],
  fimSuffix: ["<[fim-suffix]>", "<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>", "▁<SUF>", "<｜fim▁hole｜>"],
  fimMiddle: ["<[fim-middle]>", "<|fim_middle|>", "<fim_middle>", "<fim-middle>", "▁<MID>", "<｜fim▁end｜>"],
};

/** Names of the roles in the error for a missing one. */
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

/** Sources of a tokenizer's special tokens. */
export interface SpecialTokenSources {
  /** The tokens named by the tokenizer's files, see findNamedTokens. */
  readonly names: NamedTokens["names"];
  readonly model: ModelTokenFiles;
  tokenToId(token: string): number | undefined;
  idToToken(id: number): string | undefined;
  readonly vocabSize: number;
}

/** Result of {@link findSpecialTokens}. */
export interface SpecialTokens {
  ids: SpecialTokenIds;
  /** Every id that ends a text. */
  eosIds: number[];
  /** The tokens named by the files or chosen by the user, by key: `bos_token` and so on. */
  names: Record<string, string>;
}

/**
 * The special tokens of a folder, in order of precedence: the user's choice, the token named by the tokenizer's files,
 * the id in generation_config.json or config.json (`mask_token_id`, ...), and for mask and FIM tokens a name that known
 * models use. A null in the tokenizer's files means that there is no such token. The ids that end a text come from the
 * model, see findEndIds, or from the tokenizer's eos in a folder without a model.
 *
 * @throws TokenizerError TOKENIZER_TOKEN_MISSING if a chosen token is not in the vocabulary, TOKENIZER_FILE_INVALID
 */
export function findSpecialTokens(sources: SpecialTokenSources, overrides: SpecialTokenOverrides = {}): SpecialTokens {
  const ids: SpecialTokenIds = {};
  const names = new Map<string, string | null | undefined>(Object.entries(sources.names));
  for (const role of Object.keys(ROLE_NAMES) as SpecialTokenRole[]) {
    const chosen = chosenId(role, overrides[role], sources);
    if (chosen !== undefined) names.set(tokenKey(role), sources.idToToken(chosen));
    const id = chosen ?? declaredId(role, sources);
    if (id !== undefined) ids[role] = id;
  }
  const own = ids.eos === undefined ? [] : [ids.eos];
  const eosIds = overrides.eos === undefined ? (findEndIds(sources.model) ?? own) : own;
  const isNamed = (entry: [string, unknown]): entry is [string, string] => typeof entry[1] === "string";
  return { ids, eosIds, names: Object.fromEntries([...names].filter(isNamed)) };
}

/** The error for a missing role, with the names that were searched for and how to choose a token. */
export function missingToken(role: SpecialTokenRole, dir: string): TokenizerError {
  const names = KNOWN_NAMES[role];
  const looked = names
    ? `its files do not define one, and none of ${names.join(" ")} is in the vocabulary`
    : "its files do not define one";
  return new TokenizerError(
    "TOKENIZER_TOKEN_MISSING",
    `the tokenizer at ${dir} has no ${ROLE_NAMES[role]}: ${looked}. ` +
      `Choose one with { specialTokens: { ${role}: "..." } }`,
  );
}

/** The key of a role's token in files: `fim_prefix_token` for fimPrefix. */
export function tokenKey(role: SpecialTokenRole): string {
  return `${role.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}_token`;
}

function chosenId(
  role: SpecialTokenRole,
  chosen: string | number | undefined,
  sources: SpecialTokenSources,
): number | undefined {
  if (chosen === undefined) return undefined;
  // An id beyond the vocabulary is allowed: models have unused embedding rows, and some use one for the mask.
  if (typeof chosen === "number" && Number.isSafeInteger(chosen) && chosen >= 0) return chosen;
  const id = typeof chosen === "string" ? sources.tokenToId(chosen) : undefined;
  if (id !== undefined) return id;
  throw new TokenizerError(
    "TOKENIZER_TOKEN_MISSING",
    `specialTokens.${role}: ${JSON.stringify(chosen)} is not in the vocabulary (${sources.vocabSize} tokens)`,
  );
}

function declaredId(role: SpecialTokenRole, sources: SpecialTokenSources): number | undefined {
  const key = tokenKey(role);
  const name = Object.hasOwn(sources.names, key) ? sources.names[key] : undefined;
  if (name === null) return undefined;
  if (name !== undefined) return sources.tokenToId(name);
  const id = findModelId(sources.model, `${key}_id`);
  if (id !== undefined) return id;
  for (const known of KNOWN_NAMES[role] ?? []) {
    const id = sources.tokenToId(known);
    if (id !== undefined) return id;
  }
  return undefined;
}
