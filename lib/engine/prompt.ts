import type { EncodeOptions, Tokenizer } from "../tokenizer/tokenizer.js";
import { EngineError } from "./errors.js";
import type { EngineSettings, GenerateSettings, ScoreSettings } from "./options.js";
import type { ModelFacts } from "./types.js";

/** What a prompt is made of: text, or ids as they are. */
export type Prompt = string | ArrayLike<number>;

/** How texts become ids of a model. */
export interface PromptRules {
  tokenizer: Tokenizer | undefined;
  fimFormat: EngineSettings["fimFormat"];
  vocabSize: number;
}

/**
 * The ids a request begins with: the prompt's, or for infilling both sides in the order the model was trained with,
 * `<fim-suffix> S <fim-prefix> P <fim-middle>` for "spm".
 *
 * @throws EngineError ENGINE_PROMPT for ids outside the vocabulary; ENGINE_OPTIONS without a tokenizer or its
 *   fill-in-the-middle tokens
 */
export function renderPrompt(prompt: Prompt, suffix: GenerateSettings["suffix"], rules: PromptRules): Int32Array {
  if (suffix === undefined) return idsOf(prompt, "prompt", rules);
  const { tokenizer, fimFormat, vocabSize } = rules;
  const fim = tokenizer?.fim;
  if (!fim) throw new EngineError("ENGINE_OPTIONS", "suffix: the model has no fill-in-the-middle tokens");
  checkIds([fim.prefix, fim.suffix, fim.middle], "fill-in-the-middle", vocabSize);
  const before = [fim.prefix, ...idsOf(prompt, "prompt", rules, PLAIN)];
  const after = [fim.suffix, ...idsOf(suffix, "suffix", rules, PLAIN)];
  const outer = fimFormat === "spm" ? after.concat(before) : before.concat(after);
  return Int32Array.from([...outer, fim.middle]);
}

/** How the parts of an infilling are encoded: as those of training, where a text's special tokens are but text. */
const PLAIN: EncodeOptions = { addSpecialTokens: false, parseSpecialTokens: false };

/**
 * A text or ids as ids that the model has.
 *
 * @param what they are, for errors
 * @throws EngineError ENGINE_PROMPT, or ENGINE_OPTIONS for text without a tokenizer
 */
export function idsOf(
  given: Prompt,
  what: string,
  { tokenizer, vocabSize }: PromptRules,
  options?: EncodeOptions,
): Int32Array {
  if (typeof given !== "string") {
    checkIds(given, what, vocabSize); // as they are given: Int32Array would make ids of anything
    return Int32Array.from(given);
  }
  if (!tokenizer) {
    throw new EngineError("ENGINE_OPTIONS", `the ${what} is text, but the model has no tokenizer: give ids`);
  }
  const ids = tokenizer.encodeInt32(given, options);
  checkIds(ids, what, vocabSize); // a tokenizer may know more tokens than the model
  return ids;
}

/** @throws EngineError ENGINE_PROMPT for the first that is not an id of the vocabulary */
function checkIds(given: ArrayLike<number>, what: string, vocabSize: number): void {
  for (let i = 0; i < given.length; i++) {
    const id = given[i];
    if (Number.isInteger(id) && id >= 0 && id < vocabSize) continue;
    fail("ENGINE_PROMPT", `${what} token ${i} is ${id}, the vocabulary has ${vocabSize}`);
  }
}

/**
 * Checks what only the model can say about a request whose ids are of its vocabulary.
 *
 * @throws EngineError ENGINE_PROMPT, ENGINE_TOO_LONG, ENGINE_OPTIONS
 */
export function checkRequest(
  prompt: Int32Array,
  settings: GenerateSettings,
  { maskId, maxLength, contextLength, vocabSize }: ModelFacts,
  shift: boolean,
): void {
  const { edit, mode, maxTokens } = settings;
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
  const needsPast = mode === "autoregressive" || shift;
  if (needsPast && (edit ? edit.start : prompt.length) === 0) {
    fail("ENGINE_PROMPT", "the prompt is empty: the first token is predicted from one before it, give at least one");
  }
  if (mode === "diffusion" && maskId === null) {
    fail("ENGINE_OPTIONS", "the model has no mask token: it can only decode autoregressively, or give maskId");
  }
  if (edit) {
    if (edit.end <= edit.start) fail("ENGINE_OPTIONS", `edit: the span ${edit.start}..${edit.end} is empty`);
    if (edit.end > prompt.length) fail("ENGINE_OPTIONS", `edit: ${edit.end} is beyond the ${prompt.length} tokens`);
    if (mode !== "diffusion") fail("ENGINE_OPTIONS", "edit: only diffusion fills a span in place");
    if (settings.suffix !== undefined) fail("ENGINE_OPTIONS", "edit and suffix exclude each other");
    if (settings.stop.length > 0) fail("ENGINE_OPTIONS", "edit and stop exclude each other: the span has its length");
  }
  if (settings.commit && settings.steps !== undefined) {
    fail("ENGINE_OPTIONS", "steps is short for a commit rule: give one of them");
  }
  for (const id of [...(settings.stopTokenIds ?? []), ...Object.keys(settings.logitBias).map(Number)]) {
    if (id >= vocabSize) fail("ENGINE_OPTIONS", `token ${id} is outside the vocabulary of ${vocabSize}`);
  }
}

/**
 * Checks that a text can be scored.
 *
 * @throws EngineError ENGINE_PROMPT, ENGINE_TOO_LONG, ENGINE_OPTIONS
 */
export function checkScore(tokens: Int32Array, mode: ScoreSettings["mode"], { maskId, maxLength }: ModelFacts): void {
  if (tokens.length === 0) fail("ENGINE_PROMPT", "nothing to score: the text is empty");
  if (tokens.length > maxLength) {
    fail("ENGINE_TOO_LONG", `${tokens.length} tokens exceed the ${maxLength} of the model`);
  }
  if (mode !== "diffusion") return;
  if (maskId === null) {
    fail("ENGINE_OPTIONS", "the model has no mask token: it can only be scored autoregressively, or give maskId");
  }
  const masked = tokens.indexOf(maskId);
  if (masked >= 0)
    fail("ENGINE_PROMPT", `text token ${masked} is the mask token ${maskId}, which the bound is made by`);
}

function fail(code: "ENGINE_PROMPT" | "ENGINE_TOO_LONG" | "ENGINE_OPTIONS", message: string): never {
  throw new EngineError(code, message);
}
