import {
  type ChatMessage,
  type ChatRenderOptions,
  type ChatTemplate,
  withoutNulls,
} from "../tokenizer/chat-template.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import { TokenizerError } from "../tokenizer/tokenizer-error.js";
import { Philox } from "../torch/philox.js";
import type { SftConversation, SftRecord } from "./sft-record.js";
import type { EncodedSample } from "./sft-rows.js";

/** Stream number of the random generator for the number of eos after a sample. */
const EOS_STREAM = 0xe5;

/** A part of a text: an answer of the model, or its input. */
interface Piece {
  readonly text: string;
  readonly isAnswer: boolean;
}

export interface SftEncodeOptions {
  readonly tokenizer: Tokenizer;
  readonly eos: readonly [min: number, max: number];
  readonly seed: number;
}

/**
 * Encodes a record to ids and answer flags: one sample, or one per answer if the template renders earlier turns
 * differently once others follow (some drop old reasoning). Each sample ends in a number of eos (paper, section 2) that
 * is a pure function of (seed, index); an eos that the template ends with is included.
 *
 * @throws TokenizerError CHAT_TEMPLATE_MISSING, CHAT_TEMPLATE_INVALID; CHAT_TEMPLATE_FAILED if the template rejects the
 *   messages
 */
export function encodeSftRecord(record: SftRecord, index: number, options: SftEncodeOptions): EncodedSample[] {
  const { tokenizer, seed } = options;
  const [min, max] = options.eos;
  return samplesOf(record, tokenizer).map((sample, i) => {
    const key = i === 0 ? [index] : [index, i];
    const count = min + new Philox(seed, EOS_STREAM, ...key).below(max - min + 1);
    return withEos(sample, count, tokenizer);
  });
}

function samplesOf(record: SftRecord, tokenizer: Tokenizer): { ids: number[]; mask: number[] }[] {
  if ("messages" in record) {
    const { render, plain } = record;
    const template = plain ? templateOf(tokenizer, render) : tokenizer.chatTemplateFor(render);
    if (template === undefined && plain) return [encodePair(plain, tokenizer)];
    const texts = conversationPieces(record, template ?? tokenizer.chatTemplateFor(render));
    return texts.map((pieces) => encodePieces(pieces, tokenizer));
  }
  return [encodePair(record, tokenizer)];
}

/** The tokenizer's template; undefined if it has none. A template that does not parse is an error. */
function templateOf(tokenizer: Tokenizer, render: ChatRenderOptions): ChatTemplate | undefined {
  try {
    return tokenizer.chatTemplateFor(render);
  } catch (error) {
    if (error instanceof TokenizerError && error.code === "CHAT_TEMPLATE_MISSING") return undefined;
    throw error;
  }
}

/**
 * Special tokens in the prompt are parsed as such: the prompt is often an already rendered conversation or a FIM
 * prompt.
 */
function encodePair({ prompt, answer }: { prompt: string; answer: string }, tokenizer: Tokenizer) {
  const { ids, mask } = encodePieces(
    [
      { text: prompt, isAnswer: false },
      { text: answer, isAnswer: true },
    ],
    tokenizer,
  );
  const before = startTokens(prompt, tokenizer);
  return { ids: [...before, ...ids], mask: [...before.map(() => 0), ...mask] };
}

/**
 * The tokens that the tokenizer adds before a text, usually bos. Tokens that it adds after a text would end the prompt.
 */
function startTokens(text: string, tokenizer: Tokenizer): number[] {
  const whole = tokenizer.encode(text);
  const bare = tokenizer.encode(text, { addSpecialTokens: false });
  for (let start = 0; start + bare.length <= whole.length; start++) {
    if (bare.every((id, i) => whole[start + i] === id)) return whole.slice(0, start);
  }
  return [];
}

/**
 * Splits the texts of a conversation into answers and inputs: by the template's tag `generation` if it has one, as in
 * transformers' assistant mask. Otherwise each answer starts where the generation prompt ends, so that training sees
 * the same boundary as generation.
 */
function conversationPieces({ messages, answers, render }: SftConversation, template: ChatTemplate): Piece[][] {
  const given = withoutNulls(shapeContent(messages, template.source));
  const countAll = messages.every(({ role }, i) => answers[i] === (role === "assistant"));
  // The template's own marks are exact, also if it renders earlier turns differently.
  if (template.marksAnswers && countAll) return [template.segments(given, render)];
  const write = (count: number, addGenerationPrompt: boolean) =>
    template.render(given.slice(0, count), { ...render, addGenerationPrompt });
  const turns = answers.flatMap((counts, i) => (counts ? [i] : []));
  const whole = cutAt(turns, given.length, write);
  if (whole !== undefined) return [whole];
  return turns.map((turn) => {
    const alone = cutAt([turn], turn + 1, write);
    if (alone !== undefined) return alone;
    const message = `the chat template renders message ${turn} without the generation prompt that it adds for an answer`;
    throw new TokenizerError("CHAT_TEMPLATE_FAILED", message);
  });
}

/**
 * Splits the first `count` messages around the answers at `turns`; undefined if a rendered text is not a prefix of the
 * next.
 */
function cutAt(
  turns: readonly number[],
  count: number,
  write: (count: number, addGenerationPrompt: boolean) => string,
): Piece[] | undefined {
  const pieces: Piece[] = [];
  let written = "";
  const extend = (to: string, isAnswer: boolean) => {
    if (!to.startsWith(written)) return false;
    if (to.length > written.length) pieces.push({ text: to.slice(written.length), isAnswer });
    written = to;
    return true;
  };
  for (const turn of turns) {
    if (!extend(write(turn, true), false) || !extend(write(turn + 1, false), true)) return undefined;
  }
  return extend(write(count, false), false) ? pieces : undefined;
}

/** Keeps text parts as a list for a template that iterates over them, otherwise joins them to one text. */
function shapeContent(messages: readonly ChatMessage[], source: string): readonly ChatMessage[] {
  if (/\bin\s+\w+(\.content|\[\s*['"]content['"]\s*\])/.test(source)) return messages;
  return messages.map((message) => {
    const content: unknown = message.content;
    if (!Array.isArray(content)) return message;
    return { ...message, content: content.map((part: { text: string }) => part.text).join("") };
  });
}

/**
 * Encodes a text in pieces, one by one, as in generation: no token crosses the end of a prompt. If that would change
 * the text (SentencePiece starts each piece with a space), the whole text is encoded, and a token that crosses a
 * boundary belongs to the piece after it.
 */
function encodePieces(pieces: readonly Piece[], tokenizer: Tokenizer): { ids: number[]; mask: number[] } {
  const encode = (text: string) => tokenizer.encode(text, { addSpecialTokens: false });
  const parts = pieces.map(({ text }) => encode(text));
  const whole = encode(pieces.map(({ text }) => text).join(""));
  const joined = parts.flat();
  const isSame = joined.length === whole.length && joined.every((id, i) => id === whole[i]);
  const writesSame = isSame || tokenizer.decode(joined) === tokenizer.decode(whole);
  const cut = writesSame ? parts : cutWhole(whole, pieces, encode);
  const mask = pieces.flatMap(({ isAnswer }, i) => (isAnswer ? answerMask(cut[i], tokenizer) : cut[i].map(() => 0)));
  return { ids: cut.flat(), mask };
}

function cutWhole(whole: readonly number[], pieces: readonly Piece[], encode: (text: string) => number[]): number[][] {
  let text = "";
  let start = 0;
  return pieces.map((piece, i) => {
    text += piece.text;
    const before = i === pieces.length - 1 ? whole : encode(text);
    let end = start;
    while (end < whole.length && whole[end] === before[end]) end++;
    const ids = whole.slice(start, end);
    start = end;
    return ids;
  });
}

/**
 * Marks an answer up to the token that ends the turn. White space after it comes from the template and is not
 * generated.
 */
function answerMask(ids: readonly number[], tokenizer: Tokenizer): number[] {
  const ends = (id: number) => tokenizer.isSpecial(id) || tokenizer.eosIds.includes(id);
  let end = ids.length;
  while (end > 0 && !ends(ids[end - 1])) end--;
  if (end === 0 || tokenizer.decode(ids.slice(end)).trim() !== "") end = ids.length;
  return ids.map((_, i) => (i < end ? 1 : 0));
}

/**
 * Fields of messages, tools and documents that the template does not mention, so that no sample contains them. Empty if
 * the template renders whole objects.
 */
export function unwrittenFields({ messages, render }: SftConversation, { source }: ChatTemplate): string[] {
  if (/tojson|\bitems\s*\(/.test(source) && !/tool_calls/.test(source)) return [];
  const named = (key: string) => source.includes(key);
  const fields = new Set<string>();
  for (const key of ["tools", "documents"] as const) if (render[key]?.length && !named(key)) fields.add(key);
  for (const key of Object.keys(render.variables ?? {})) if (!named(key)) fields.add(`chat_template_kwargs.${key}`);
  for (const { role: _, content: __, ...rest } of messages) {
    for (const [key, value] of Object.entries(rest)) if (value != null && !named(key)) fields.add(`messages.${key}`);
  }
  return [...fields];
}

function withEos({ ids, mask }: { ids: number[]; mask: number[] }, count: number, tokenizer: Tokenizer): EncodedSample {
  const eos = tokenizer.require("eos");
  const last = mask.lastIndexOf(1);
  const endsInAnswer = last >= 0 && tokenizer.decode(ids.slice(last + 1)).trim() === "";
  let written = 0; // number of eos with which the template ended the last answer
  while (endsInAnswer && last - written >= 0 && mask[last - written] === 1 && ids[last - written] === eos) written++;
  let end = ids.length;
  if (last === end - 1 && written > count) end -= written - count;
  const more = Math.max(0, count - written);
  return {
    tokens: Int32Array.from([...ids.slice(0, end), ...new Array<number>(more).fill(eos)]),
    mask: Uint8Array.from([...mask.slice(0, end), ...new Array<number>(more).fill(endsInAnswer ? 1 : 0)]),
  };
}
