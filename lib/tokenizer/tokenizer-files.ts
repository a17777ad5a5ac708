import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, realpathSync, renameSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { valueProblems } from "../base/options.js";
import { FileError, readTextFile } from "../base/regular-file.js";
import type { AddedToken } from "./added-tokens.js";
import {
  additionalTemplates,
  CHAT_TEMPLATE_DIR,
  MAIN_TEMPLATE_FILE,
  readChatTemplates,
} from "./chat-template-files.js";
import { isObject, type JsonObject, type TokenizerJson, tokenizerJson } from "./component.js";
import type { ModelTokenFiles } from "./named-tokens.js";
import { findNamedTokens, type NamedTokens } from "./named-tokens.js";
import { parsePythonJson } from "./python-json.js";
import { TokenizerError } from "./tokenizer-error.js";

/** Files of a tokenizer in the Hugging Face layout; only tokenizer.json is required. */
export const TOKENIZER_FILES = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  MAIN_TEMPLATE_FILE,
  "vocab.json",
  "merges.txt",
  "tokenizer.model",
] as const;

/** The parsed and validated files of a tokenizer folder. */
export interface TokenizerFiles {
  readonly dir: string;
  readonly tokenizer: TokenizerJson;
  /** Additional tokens of tokenizer_config.json. */
  readonly moreTokens: readonly AddedToken[];
  /** tokenizer_config.json, {} if absent. */
  readonly config: JsonObject;
  /** The tokens named by the files, by key. */
  readonly names: NamedTokens["names"];
  /** The model's files, which contain token ids. */
  readonly model: ModelTokenFiles;
  /** Chat templates by name; empty if there is none. */
  readonly chatTemplates: ReadonlyMap<string, string>;
  /** SHA-256 (hex) over everything that determines the ids of a text. */
  readonly hash: string;
}

/**
 * Reads a tokenizer folder in the Hugging Face layout.
 *
 * @param name the folder, or the name of a built-in tokenizer
 * @throws TokenizerError TOKENIZER_FILE_MISSING (no folder, no tokenizer.json), TOKENIZER_FILE_INVALID (invalid JSON or
 *   structure; the message names the file and the location)
 */
export function readTokenizerFiles(name: string): TokenizerFiles {
  const dir = tokenizerFolder(name);
  const path = join(dir, "tokenizer.json");
  if (!existsSync(path)) {
    const why = existsSync(dir) ? "the folder has no tokenizer.json" : missingFolder(dir);
    const slow = existsSync(join(dir, "tokenizer.model"))
      ? ". It has tokenizer.model (SentencePiece); convert it with transformers' fast tokenizer to get tokenizer.json"
      : "";
    throw new TokenizerError("TOKENIZER_FILE_MISSING", `no tokenizer at ${dir}: ${why}${slow}`);
  }
  const text = readText(path);
  const json = parseJson(text, path);
  const parsed = tokenizerJson.safeParse(json);
  if (!parsed.success) throw invalid(path, valueProblems(tokenizerJson, json).join("\n"));
  const optional = (name: string) => readObject(join(dir, name));
  const tokenizerConfig = optional("tokenizer_config.json");
  const model = { dir, config: optional("config.json"), generation: optional("generation_config.json") };
  const { added, isRebuilt, names } = findNamedTokens({
    dir,
    tokenizer: parsed.data,
    tokenizerConfig,
    specialTokensMap: optional("special_tokens_map.json"),
    addedTokens: optional("added_tokens.json"),
    modelConfig: model.config,
  });
  const tokenizer = isRebuilt ? { ...parsed.data, added_tokens: [] } : parsed.data;
  const moreTokens = tokensBeside(tokenizer, added);
  const config = tokenizerConfig ?? {};
  const hash = createHash("sha256")
    .update(text)
    .update(JSON.stringify([tokenizer.added_tokens, moreTokens]))
    .digest("hex");
  return {
    dir,
    tokenizer,
    moreTokens,
    config,
    names,
    model,
    chatTemplates: readTemplates(dir, config),
    hash,
  };
}

/**
 * Copies the tokenizer's files from one folder to another, which is created if needed. Returns the names of the copied
 * files.
 */
export function copyTokenizerFiles(from: string, to: string): string[] {
  mkdirSync(to, { recursive: true });
  const names = TOKENIZER_FILES.filter((name) => existsSync(join(from, name)));
  const templates = additionalTemplates(from).map((name) => join(CHAT_TEMPLATE_DIR, name));
  const all = [...names, ...templates];
  if (realpathSync(from) === realpathSync(to)) return all;
  if (templates.length > 0) mkdirSync(join(to, CHAT_TEMPLATE_DIR), { recursive: true });
  for (const name of all) {
    // Renamed into place, so that a link is replaced, not its target.
    const temporary = join(to, `${name}.${process.pid}.tmp`);
    copyFileSync(join(from, name), temporary);
    renameSync(temporary, join(to, name));
  }
  return all;
}

/** The added tokens that are missing from tokenizer.json or have other properties there. */
function tokensBeside(tokenizer: TokenizerJson, added: NamedTokens["added"]): AddedToken[] {
  const known = new Set(tokenizer.added_tokens.map(keyOf));
  return added.map(withDefaults).filter((token) => !known.has(keyOf(token)));
}

/** A token with transformers' defaults for missing properties. */
function withDefaults({ content, special = false, ...flags }: NamedTokens["added"][number]): AddedToken {
  const { single_word = false, lstrip = false, rstrip = false, normalized = !special } = flags;
  return { content, single_word, lstrip, rstrip, normalized, special };
}

function keyOf({ content, single_word, lstrip, rstrip, normalized, special }: AddedToken): string {
  return JSON.stringify([content, single_word, lstrip, rstrip, normalized, special]);
}

function readTemplates(dir: string, config: JsonObject): ReadonlyMap<string, string> {
  const templates = readChatTemplates(dir, config, readText);
  if (templates) return templates;
  throw invalid(join(dir, "tokenizer_config.json"), "chat_template must be a string or a list of {name, template}");
}

/** The JSON object in a file; undefined if the file does not exist. */
function readObject(path: string): JsonObject | undefined {
  if (!existsSync(path)) return undefined;
  const value = parseJson(readText(path), path);
  if (!isObject(value)) throw invalid(path, "not a JSON object");
  return value;
}

function readText(path: string): string {
  try {
    return readTextFile(path);
  } catch (cause) {
    const missing = cause instanceof FileError && cause.problem === "missing";
    const code = missing ? "TOKENIZER_FILE_MISSING" : "TOKENIZER_FILE_INVALID";
    throw new TokenizerError(code, `cannot read ${path}: ${(cause as Error).message}`, { cause });
  }
}

function parseJson(text: string, path: string): unknown {
  try {
    return parsePythonJson(text);
  } catch (cause) {
    throw invalid(path, `invalid JSON (${text.length} characters): ${(cause as Error).message}`, cause);
  }
}

function invalid(path: string, what: string, cause?: unknown): TokenizerError {
  return new TokenizerError("TOKENIZER_FILE_INVALID", `${path}: ${what}`, { cause });
}

/** The name of the built-in tokenizer: 4,096 tokens of code, Seed-Coder's special tokens at the same ids. */
export const CODE_TOKENIZER = "diffcoder/code-4k";

const BUNDLED: Readonly<Record<string, URL>> = {
  [CODE_TOKENIZER]: new URL("../../assets/tokenizer", import.meta.url),
};

/** The folder of a tokenizer: `name` itself if it is a folder, or that of the built-in tokenizer with this name. */
export function tokenizerFolder(name: string): string {
  return Object.hasOwn(BUNDLED, name) && !existsSync(name) ? fileURLToPath(BUNDLED[name]) : name;
}

/**
 * The message for a missing folder. The id of a repository on the Hugging Face hub is a likely mistake; since nothing
 * is downloaded, the message explains how to fetch it.
 */
export function missingFolder(path: string): string {
  if (!/^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/.test(path)) return `${path} does not exist`;
  const folder = path.split("/")[1];
  return (
    `${path} is not a folder on this machine. If it is the id of a repository on the Hugging Face hub: a local folder is ` +
    `needed. Fetch it with 'hf download ${path} --local-dir ${folder}' (pip install huggingface_hub), then give ${folder}`
  );
}
