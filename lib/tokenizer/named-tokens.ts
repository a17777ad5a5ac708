import type { JsonObject, TokenizerJson } from "./component.js";
import { TokenizerError } from "./tokenizer-error.js";

// Reimplements how transformers' AutoTokenizer reads the files beside tokenizer.json (transformers 5.24:
// models/auto/tokenization_auto.py, tokenization_utils_base.py, tokenization_utils_tokenizers.py). It determines the
// tokens; their ids follow from the vocabulary. test/fixtures/special-tokens.json has the results of the original.

/** The smaller files of a tokenizer; undefined if a file does not exist. */
export interface NamedTokenSources {
  readonly dir: string;
  readonly tokenizer: TokenizerJson;
  readonly tokenizerConfig: JsonObject | undefined;
  readonly specialTokensMap: JsonObject | undefined;
  /** added_tokens.json of older tokenizers: ids by token. */
  readonly addedTokens: JsonObject | undefined;
  /** config.json of the model, which may contain the tokenizer's class. */
  readonly modelConfig: JsonObject | undefined;
}

/** The named and added tokens of the files. */
export interface NamedTokens {
  /**
   * The tokenizer's added tokens, including those of the smaller files. skipSpecialTokens drops those that are
   * `special`.
   */
  readonly added: readonly ListedToken[];
  /** Whether the tokenizer's class uses only the vocabulary of tokenizer.json and adds all tokens again. */
  readonly isRebuilt: boolean;
  /** Tokens by key, such as `eos_token`; null if a file sets it to null. Keys that no file has are absent. */
  readonly names: Readonly<Record<string, string | null>>;
}

/** In the order in which new tokens get their ids. */
const STANDARD_KEYS = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/** An added token that has no id yet. */
interface NewToken {
  content: string;
  special?: boolean;
  normalized?: boolean;
  lstrip?: boolean;
  rstrip?: boolean;
  single_word?: boolean;
}

/** An added token with its id in transformers. */
interface ListedToken extends NewToken {
  id: number;
}

/** Classes with default tokens, which are rebuilt from the vocabulary. */
const CLASS_DEFAULTS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  LlamaTokenizer: { unk_token: "<unk>", bos_token: "<s>", eos_token: "</s>" },
  CodeLlamaTokenizer: { unk_token: "<unk>", bos_token: "<s>", eos_token: "</s>" },
  Qwen2Tokenizer: { unk_token: "<|endoftext|>", eos_token: "<|endoftext|>", pad_token: "<|endoftext|>" },
  GPT2Tokenizer: { unk_token: "<|endoftext|>", bos_token: "<|endoftext|>", eos_token: "<|endoftext|>" },
};

/**
 * The named tokens and the added tokens of a tokenizer's files.
 *
 * If tokenizer_config.json has `added_tokens_decoder`, special_tokens_map.json and added_tokens.json are ignored;
 * otherwise special_tokens_map.json takes precedence, including its null values.
 *
 * @throws TokenizerError TOKENIZER_FILE_INVALID for a token of the wrong kind; the message names file and key
 */
export function findNamedTokens(sources: NamedTokenSources): NamedTokens {
  const { tokenizer, specialTokensMap, addedTokens, dir } = sources;
  const config = { ...sources.tokenizerConfig };
  const file = `${dir}/tokenizer_config.json`;
  const className = classOf(sources);
  if ("additional_special_tokens" in config && !isTruthy(config.extra_special_tokens)) {
    config.extra_special_tokens = config.additional_special_tokens;
    delete config.additional_special_tokens;
  }
  const legacyMap = "added_tokens_decoder" in config ? undefined : specialTokensMap;
  const named = namedTokens([
    [file, config],
    [`${dir}/special_tokens_map.json`, legacyMap ?? {}],
  ]);
  const listed: { id: number; token: NewToken }[] = [];
  let extra: unknown = config.extra_special_tokens;
  if ("added_tokens_decoder" in config) {
    listed.push(...decoderTokens(config.added_tokens_decoder, file));
  } else {
    const more = legacyMap?.extra_special_tokens;
    if (Array.isArray(more)) extra = [...(Array.isArray(extra) ? extra : []), ...more];
    else if (more !== undefined) extra = more;
    if (addedTokens) listed.push(...sideTokens(addedTokens, named, extra, `${dir}/added_tokens.json`));
    for (const token of tokenizer.added_tokens) listed.push({ id: token.id, token });
  }
  const isByName = typeof extra === "object" && extra !== null && !Array.isArray(extra);
  if (isByName)
    for (const [key, token] of Object.entries(extra as JsonObject)) named.set(key, tokenOf(token, key, file));
  // The older name is used if the newer one is missing.
  if (isByName || extra === undefined) extra = legacyMap?.additional_special_tokens ?? config.additional_special_tokens;
  const extras = extraTokens(extra, file);
  const byContent = new Map(listed.map(({ token }) => [token.content, token]));
  for (const [key, token] of named) if (token) named.set(key, byContent.get(token.content) ?? token);

  const defaults = CLASS_DEFAULTS[className];
  for (const [key, content] of Object.entries(defaults ?? {})) {
    if (!named.has(key)) named.set(key, special(content));
  }
  const padding = (tokenizer as { padding?: { pad_token?: unknown } | null }).padding?.pad_token;
  if (!named.has("pad_token") && defaults === undefined && typeof padding === "string") {
    named.set("pad_token", special(padding));
  }

  const vocabulary = new AddedVocabulary(tokenizer, defaults === undefined ? tokenizer.added_tokens : []);
  const asked = listed.toSorted((a, b) => a.id - b.id).map(({ token }) => token);
  const own = [...named.keys()].filter((key) => !STANDARD_KEYS.includes(key));
  const roles = [...STANDARD_KEYS, ...own].map((key) => named.get(key) ?? null);
  vocabulary.add(missingTokens(vocabulary, asked, roles, extras));
  const names = Object.fromEntries([...named].map(([key, token]) => [key, token?.content ?? null]));
  if (className === "Qwen2Tokenizer") {
    const contents = [...named.values(), ...extras].flatMap((token) => token?.content ?? []);
    vocabulary.add([...new Set(contents)].map(special));
  }
  return { added: vocabulary.tokens, isRebuilt: defaults !== undefined, names };
}

/** The tokens with their own key; later files take precedence. */
function namedTokens(files: readonly [path: string, content: JsonObject][]): Map<string, NewToken | null> {
  const found = new Map<string, { value: unknown; path: string }>();
  for (const [path, content] of files) {
    for (const [key, value] of Object.entries(content)) {
      // Model-specific tokens, such as fim_prefix_token; other values under such keys are options.
      const isToken = STANDARD_KEYS.includes(key) || (key.endsWith("_token") && hasContent(value));
      if (isToken) found.set(key, { value, path });
    }
  }
  return new Map([...found].map(([key, { value, path }]) => [key, value === null ? null : tokenOf(value, key, path)]));
}

/** The tokens of the files that are missing from the vocabulary or have other properties there. */
function missingTokens(
  vocabulary: AddedVocabulary,
  listed: readonly NewToken[],
  roles: readonly (NewToken | null)[],
  extras: readonly NewToken[],
): NewToken[] {
  const named = new Set(roles.map((token) => token?.content));
  const marked = listed.map((token) => (named.has(token.content) ? { ...token, special: true } : token));
  const missing = marked.filter((token) => !vocabulary.hasExactly(token));
  const known = new Set([...vocabulary.tokens, ...missing].map(({ content }) => content));
  for (const token of [...roles, ...extras]) {
    if (!token || known.has(token.content)) continue;
    known.add(token.content);
    missing.push(token);
  }
  return missing.map((token) => (named.has(token.content) ? { ...token, special: true } : token));
}

/** The class that AutoTokenizer would create; "" for the one that uses tokenizer.json unchanged. */
function classOf({ tokenizer, tokenizerConfig, modelConfig }: NamedTokenSources): string {
  const declared = tokenizerConfig?.tokenizer_class ?? modelConfig?.tokenizer_class;
  const name = typeof declared === "string" ? declared.replace(/Fast$/, "") : "";
  if (modelConfig?.model_type === "qwen2") return "Qwen2Tokenizer";
  if (name === "LlamaTokenizer" && hasByteLevel(tokenizer)) return "";
  return Object.hasOwn(CLASS_DEFAULTS, name) ? name : "";
}

function hasByteLevel({ pre_tokenizer, decoder }: TokenizerJson): boolean {
  return [pre_tokenizer, decoder].some((part) => {
    const stages = [part, ...(((part?.pretokenizers ?? part?.decoders) as { type?: string }[] | undefined) ?? [])];
    return stages.some((stage) => stage?.type === "ByteLevel");
  });
}

/** Added tokens as in Rust's library: a token of the vocabulary keeps its id, others get the next free one. */
class AddedVocabulary {
  readonly #vocabulary: ReadonlyMap<string, number>;
  readonly #size: number;
  readonly #tokens = new Map<string, ListedToken>();

  constructor({ model }: TokenizerJson, tokens: readonly ListedToken[]) {
    // Validated when the model is opened.
    const vocab = (model as { vocab?: unknown }).vocab;
    const entries = Array.isArray(vocab)
      ? vocab.map((entry, id) => [String(Array.isArray(entry) ? entry[0] : entry), id] as const)
      : Object.entries((vocab ?? {}) as Record<string, number>);
    this.#vocabulary = new Map(entries);
    this.#size = this.#vocabulary.size;
    for (const token of tokens) this.#tokens.set(token.content, token);
  }

  get tokens(): ListedToken[] {
    return [...this.#tokens.values()];
  }

  hasExactly(token: NewToken): boolean {
    const known = this.#tokens.get(token.content);
    return known !== undefined && describe(known) === describe(token);
  }

  add(tokens: readonly NewToken[]): void {
    for (const token of tokens) {
      if (token.content === "") continue;
      const known = this.#tokens.get(token.content);
      const id = known?.id ?? this.#vocabulary.get(token.content) ?? this.#nextId();
      // A token that was special stays special.
      this.#tokens.set(token.content, { ...token, id, special: token.special || known?.special });
    }
  }

  #nextId(): number {
    let next = this.#size;
    for (const { id } of this.#tokens.values()) next = Math.max(next, id + 1);
    return next;
  }
}

function describe(token: NewToken): string {
  const { content, special, normalized, lstrip, rstrip, single_word } = token;
  return JSON.stringify(
    [content, special ?? false, normalized ?? !special, lstrip, rstrip, single_word].map((v) => v ?? false),
  );
}

function decoderTokens(decoder: unknown, file: string): { id: number; token: NewToken }[] {
  if (typeof decoder !== "object" || decoder === null || Array.isArray(decoder)) {
    throw invalid(file, `added_tokens_decoder is ${brief(decoder)}, expected tokens by id`);
  }
  return Object.entries(decoder).map(([id, token]) => {
    if (!/^\d+$/.test(id)) throw invalid(file, `added_tokens_decoder: ${JSON.stringify(id)} is not a token id`);
    if (typeof token !== "object")
      throw invalid(file, `added_tokens_decoder.${id} is ${brief(token)}, expected a token`);
    return { id: Number(id), token: tokenOf(token, `added_tokens_decoder.${id}`, file, false) };
  });
}

/** The tokens of added_tokens.json, which are special if they have a role. */
function sideTokens(
  found: JsonObject,
  named: ReadonlyMap<string, NewToken | null>,
  extra: unknown,
  file: string,
): { id: number; token: NewToken }[] {
  const roles = new Set([...named.values()].map((token) => token?.content));
  for (const token of Array.isArray(extra) ? extra : []) roles.add(typeof token === "string" ? token : token?.content);
  return Object.entries(found).map(([content, id]) => {
    if (typeof id !== "number" || !Number.isSafeInteger(id) || id < 0)
      throw invalid(file, `${JSON.stringify(content)} is ${brief(id)}, expected a token id`);
    const isRole = roles.has(content);
    return { id, token: { content, special: isRole, normalized: !isRole } };
  });
}

/** The additional special tokens without a key. */
function extraTokens(extra: unknown, file: string): NewToken[] {
  if (extra === undefined || extra === null) return [];
  if (!Array.isArray(extra)) throw invalid(file, `extra_special_tokens is ${brief(extra)}, expected a list of tokens`);
  return extra.map((token, i) => tokenOf(token, `extra_special_tokens[${i}]`, file));
}

function special(content: string): NewToken {
  return { content, special: true, normalized: false };
}

function hasContent(value: unknown): boolean {
  return typeof value === "string" || typeof (value as { content?: unknown } | null)?.content === "string";
}

/** Reads a token from a file: its text, or an object with its properties. */
function tokenOf(value: unknown, key: string, file: string, isSpecial = true): NewToken {
  if (typeof value === "string") return special(value);
  if (!hasContent(value)) {
    throw invalid(file, `${key} is ${brief(value)}, expected a token's text, an object with its content, or null`);
  }
  const { content, special: flag, normalized, lstrip, rstrip, single_word } = value as NewToken;
  const own = flag ?? isSpecial;
  return { content, special: own, normalized: normalized ?? !own, lstrip, rstrip, single_word };
}

function isTruthy(value: unknown): boolean {
  if (Array.isArray(value)) return value.length > 0;
  if (typeof value === "object" && value !== null) return Object.keys(value).length > 0;
  return Boolean(value);
}

function invalid(file: string, what: string): TokenizerError {
  return new TokenizerError("TOKENIZER_FILE_INVALID", `${file}: ${what}`);
}

function brief(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** The model's files; undefined if a file does not exist. */
export interface ModelTokenFiles {
  readonly dir: string;
  /** config.json */
  readonly config: JsonObject | undefined;
  /** generation_config.json */
  readonly generation: JsonObject | undefined;
}

/**
 * The ids that end a text, as in `generate` of transformers 5.24: `eos_token_id` of generation_config.json or, without
 * that file, of config.json. It is one id or a list; null or a missing key means that no token ends a text. Negative
 * ids are ignored.
 *
 * @returns undefined if neither file exists
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

/**
 * The id for a role in the model's files, such as `pad_token_id`; generation_config.json takes precedence over
 * config.json.
 */
export function findModelId({ config, generation }: ModelTokenFiles, key: string): number | undefined {
  for (const file of [generation, config]) {
    const [id] = [file?.[key]].flat();
    if (typeof id === "number" && Number.isSafeInteger(id) && id >= 0) return id;
  }
  return undefined;
}
