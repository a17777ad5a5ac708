import type { EncodeOptions, Tokenizer } from "../tokenizer/tokenizer.js";
import { EngineError } from "./errors.js";
import type { EngineSettings, GenerateSettings, ScoreSettings } from "./options.js";
import type { ModelInfo } from "./types.js";

/** What a prompt is made of: text, or token ids as they are. */
export type Prompt = string | ArrayLike<number>;

/** A request as it goes to the engine's core: checked, its prompt as ids. */
export interface EngineRequest {
  /** Unique among the requests of an engine. */
  key: number;
  prompt: Int32Array;
  settings: GenerateSettings & { seed: number | bigint; blockSize: number };
  /** Every id that ends the text. */
  stopTokenIds: number[];
  /** Stop strings that are special tokens, by id: they end the text, too. */
  stopTokens: [id: number, text: string][];
  /** Ids that are never sampled, besides the mask. */
  forbidden: number[];
  /** Date.now() when the request was given to the engine. */
  arrival: number;
}

/** How prompts become ids of a model. */
export interface PromptRules {
  tokenizer: Tokenizer | undefined;
  fimFormat: EngineSettings["fimFormat"];
  vocabSize: number;
}

/** What a request is checked against. */
export interface RequestModel {
  tokenizer: Tokenizer | undefined;
  info: ModelInfo;
  settings: Pick<EngineSettings, "shift" | "blockSize">;
  /** The core runs in this thread: requests may hold functions. */
  isHere: boolean;
}

/**
 * A request for the core.
 *
 * @param prompt as {@link renderPrompt} gives it
 * @throws EngineError ENGINE_PROMPT, ENGINE_TOO_LONG, ENGINE_OPTIONS
 */
export function makeRequest(
  key: number,
  prompt: Int32Array,
  parsed: GenerateSettings,
  model: RequestModel,
): EngineRequest {
  checkRequest(prompt, parsed, model);
  const seed = parsed.seed ?? Math.floor(Math.random() * 2 ** 48);
  const settings = { ...parsed, seed, blockSize: parsed.blockSize ?? model.settings.blockSize };
  return { key, prompt, settings, ...stopsOf(parsed, model), arrival: Date.now() };
}

/** Number of tokens that each choice of a request may generate. */
export function maxNewTokens({ edit, maxTokens }: GenerateSettings): number {
  return edit ? edit.end - edit.start : maxTokens;
}

/**
 * The ids of a prompt; for infilling, those of both sides in the order the model was trained with,
 * `<fim-suffix> S <fim-prefix> P <fim-middle>` for "spm".
 *
 * @throws EngineError ENGINE_PROMPT for ids outside the vocabulary; ENGINE_OPTIONS for text without a tokenizer, and for a
 *   suffix without fill-in-the-middle tokens
 */
export function renderPrompt(prompt: Prompt, suffix: GenerateSettings["suffix"], rules: PromptRules): Int32Array {
  if (suffix === undefined) return idsOf(prompt, "prompt", rules);
  const { tokenizer, fimFormat, vocabSize } = rules;
  const fim = tokenizer?.fim;
  if (!fim) fail("ENGINE_OPTIONS", "suffix: the model has no fill-in-the-middle tokens");
  checkIds([fim.prefix, fim.suffix, fim.middle], "fill-in-the-middle", vocabSize);
  const before = [fim.prefix, ...idsOf(prompt, "prompt", rules, PLAIN)];
  const after = [fim.suffix, ...idsOf(suffix, "suffix", rules, PLAIN)];
  const outer = fimFormat === "spm" ? after.concat(before) : before.concat(after);
  return Int32Array.from([...outer, fim.middle]);
}

/** How both sides of an infilling are encoded: as in training, where special tokens in a text are plain text. */
const PLAIN: EncodeOptions = { addSpecialTokens: false, parseSpecialTokens: false };

/**
 * Text or ids as ids of the model.
 *
 * @param what names them in errors
 * @throws EngineError ENGINE_PROMPT, or ENGINE_OPTIONS for text without a tokenizer
 */
export function idsOf(
  given: Prompt,
  what: string,
  { tokenizer, vocabSize }: Omit<PromptRules, "fimFormat">,
  options?: EncodeOptions,
): Int32Array {
  if (typeof given !== "string") {
    checkIds(given, what, vocabSize); // before Int32Array.from, which converts anything
    return Int32Array.from(given);
  }
  if (!tokenizer) fail("ENGINE_OPTIONS", `the ${what} is text, but the model has no tokenizer: give token ids`);
  const ids = tokenizer.encodeInt32(given, options);
  checkIds(ids, what, vocabSize); // a tokenizer may have more tokens than the model
  return ids;
}

/** @throws EngineError ENGINE_PROMPT for the first id outside the vocabulary */
function checkIds(given: ArrayLike<number>, what: string, vocabSize: number): void {
  for (let i = 0; i < given.length; i++) {
    const id = given[i];
    if (Number.isInteger(id) && id >= 0 && id < vocabSize) continue;
    fail("ENGINE_PROMPT", `${what} token ${i} is ${id}, but the vocabulary has ${vocabSize} tokens`);
  }
}

function checkRequest(prompt: Int32Array, options: GenerateSettings, { info, settings, isHere }: RequestModel): void {
  const { edit, mode, maxTokens, commit, steps, stop, suffix, stopTokenIds, logitBias } = options;
  const { maskId, maxLength, contextLength, vocabSize } = info;
  for (const [i, id] of prompt.entries()) {
    if (id === maskId && !(edit && i >= edit.start && i < edit.end)) {
      fail("ENGINE_PROMPT", `prompt token ${i} is the mask token ${maskId}`);
    }
  }
  const total = edit ? prompt.length : prompt.length + maxTokens;
  if (total > maxLength) {
    const what = edit ? `${total} tokens` : `${prompt.length} prompt tokens and ${maxTokens} more`;
    const limit =
      total > contextLength ? `the model's context of ${contextLength}` : `the engine's limit of ${maxLength}`;
    fail("ENGINE_TOO_LONG", `${what} exceed ${limit}`);
  }
  const needsPast = mode === "autoregressive" || settings.shift;
  if (needsPast && (edit ? edit.start : prompt.length) === 0) {
    fail("ENGINE_PROMPT", "the prompt is empty: the first token is predicted from one before it, give at least one");
  }
  if (mode === "diffusion" && maskId === null) {
    fail("ENGINE_OPTIONS", 'the model has no mask token: use mode "autoregressive", or give maskId');
  }
  if (edit) {
    if (edit.end <= edit.start) fail("ENGINE_OPTIONS", `edit: the span ${edit.start}..${edit.end} is empty`);
    if (edit.end > prompt.length) {
      fail("ENGINE_OPTIONS", `edit: the span ends at ${edit.end}, but the prompt has ${prompt.length} tokens`);
    }
    if (mode !== "diffusion") fail("ENGINE_OPTIONS", 'edit requires mode "diffusion"');
    if (suffix !== undefined) fail("ENGINE_OPTIONS", "edit and suffix cannot be combined");
    if (stop.length > 0) fail("ENGINE_OPTIONS", "edit and stop cannot be combined: the length of the span is fixed");
  }
  if (commit && !("rule" in commit) && !isHere) {
    const remedy = 'use worker: "none", or generateBlocks()';
    const what = `the rule '${commit.name}' is a function, which cannot be sent to the engine's worker`;
    fail("ENGINE_OPTIONS", `commit: ${what}: ${remedy}`);
  }
  if (commit && steps !== undefined) {
    fail("ENGINE_OPTIONS", "commit and steps cannot be combined: steps is short for a static commit rule");
  }
  for (const id of [...(stopTokenIds ?? []), ...Object.keys(logitBias).map(Number)]) {
    if (id >= vocabSize) fail("ENGINE_OPTIONS", `token ${id} is outside the vocabulary of ${vocabSize}`);
  }
}

/**
 * What ends a text, and what is never sampled. Special tokens are not part of the text, so a stop string that is a special
 * token ends it by its id.
 */
function stopsOf(
  { stopTokenIds, ignoreEos, canvas, edit, stop }: GenerateSettings,
  { info: { eosIds, vocabSize }, tokenizer }: RequestModel,
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

/**
 * Checks that a text can be scored.
 *
 * @throws EngineError ENGINE_PROMPT, ENGINE_TOO_LONG, ENGINE_OPTIONS
 */
export function checkScore(tokens: Int32Array, mode: ScoreSettings["mode"], { maskId, maxLength }: ModelInfo): void {
  if (tokens.length === 0) fail("ENGINE_PROMPT", "nothing to score: the text is empty");
  if (tokens.length > maxLength) fail("ENGINE_TOO_LONG", `${tokens.length} tokens exceed the limit of ${maxLength}`);
  if (mode !== "diffusion") return;
  if (maskId === null) {
    fail("ENGINE_OPTIONS", 'the model has no mask token: use mode "autoregressive", or give maskId');
  }
  const masked = tokens.indexOf(maskId);
  if (masked >= 0) fail("ENGINE_PROMPT", `text token ${masked} is the mask token ${maskId}`);
}

function fail(code: "ENGINE_PROMPT" | "ENGINE_TOO_LONG" | "ENGINE_OPTIONS", message: string): never {
  throw new EngineError(code, message);
}
