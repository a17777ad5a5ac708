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

/** Stream number of the generator that draws how many eos follow a sample. */
const EOS_STREAM = 0xe5;

/** A stretch of a text: what the model answers, or what it is given. */
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
 * A record's ids and answer flags: one sample, or one for each answer where the template writes earlier turns differently
 * once others follow (some drop old reasoning). Each ends in some eos (paper, section 2), their number a pure function of
 * (seed, index); one that the template ends with is counted.
 *
 * @throws TokenizerError CHAT_TEMPLATE_MISSING, CHAT_TEMPLATE_INVALID; CHAT_TEMPLATE_FAILED if it refuses the messages
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

/** The tokenizer's template; undefined where it has none. One that does not parse is an error. */
function templateOf(tokenizer: Tokenizer, render: ChatRenderOptions): ChatTemplate | undefined {
  try {
    return tokenizer.chatTemplateFor(render);
  } catch (error) {
    if (error instanceof TokenizerError && error.code === "CHAT_TEMPLATE_MISSING") return undefined;
    throw error;
  }
}

/** Special tokens in the prompt count: it often is a conversation that was written out before, or a FIM prompt. */
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

/** What the tokenizer puts before a text, bos as a rule. What it puts behind one would end the prompt. */
function startTokens(text: string, tokenizer: Tokenizer): number[] {
  const whole = tokenizer.encode(text);
  const bare = tokenizer.encode(text, { addSpecialTokens: false });
  for (let start = 0; start + bare.length <= whole.length; start++) {
    if (bare.every((id, i) => whole[start + i] === id)) return whole.slice(0, start);
  }
  return [];
}

/**
 * The texts of a conversation, cut into what the model answers and what it is given: by the template's tag `generation`
 * where it has one, as in transformers' assistant mask. Else each answer begins where the generation prompt ends: training
 * sees the very cut that the model meets when it answers.
 */
function conversationPieces({ messages, answers, render }: SftConversation, template: ChatTemplate): Piece[][] {
  const given = withoutNulls(shapeContent(messages, template.source));
  const countAll = messages.every(({ role }, i) => answers[i] === (role === "assistant"));
  // The template's own marks are exact, and hold where it writes earlier turns differently.
  if (template.marksAnswers && countAll) return [template.segments(given, render)];
  const write = (count: number, addGenerationPrompt: boolean) =>
    template.render(given.slice(0, count), { ...render, addGenerationPrompt });
  const turns = answers.flatMap((counts, i) => (counts ? [i] : []));
  const whole = cutAt(turns, given.length, write);
  if (whole !== undefined) return [whole];
  return turns.map((turn) => {
    const alone = cutAt([turn], turn + 1, write);
    if (alone !== undefined) return alone;
    const message = `the chat template writes message ${turn} without the generation prompt that it is asked with`;
    throw new TokenizerError("CHAT_TEMPLATE_FAILED", message);
  });
}

/** The first `count` messages, cut around the answers at `turns`; undefined where one text does not begin the next. */
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

/** Parts of text as they are for a template that goes through them, else as one text. */
function shapeContent(messages: readonly ChatMessage[], source: string): readonly ChatMessage[] {
  if (/\bin\s+\w+(\.content|\[\s*['"]content['"]\s*\])/.test(source)) return messages;
  return messages.map((message) => {
    const content: unknown = message.content;
    if (!Array.isArray(content)) return message;
    return { ...message, content: content.map((part: { text: string }) => part.text).join("") };
  });
}

/**
 * The ids of a text in pieces. Pieces are encoded one by one, as the generation meets them: a token never reaches over
 * the end of a prompt. Where that would write another text (SentencePiece begins each with a space) the ids are those of
 * the whole, and a token that lies over a cut belongs to the piece behind it.
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

/** An answer counts up to the token that ends the turn: white space after it is the template's, nobody generates it. */
function answerMask(ids: readonly number[], tokenizer: Tokenizer): number[] {
  const ends = (id: number) => tokenizer.isSpecial(id) || tokenizer.eosIds.includes(id);
  let end = ids.length;
  while (end > 0 && !ends(ids[end - 1])) end--;
  if (end === 0 || tokenizer.decode(ids.slice(end)).trim() !== "") end = ids.length;
  return ids.map((_, i) => (i < end ? 1 : 0));
}

/**
 * Fields of messages, tools and documents that the template never names, so that they are in no sample. Empty where the
 * template writes whole objects.
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
  let written = 0; // eos that the template ended the last answer with
  while (endsInAnswer && last - written >= 0 && mask[last - written] === 1 && ids[last - written] === eos) written++;
  let end = ids.length;
  if (last === end - 1 && written > count) end -= written - count;
  const more = Math.max(0, count - written);
  return {
    tokens: Int32Array.from([...ids.slice(0, end), ...new Array<number>(more).fill(eos)]),
    mask: Uint8Array.from([...mask.slice(0, end), ...new Array<number>(more).fill(endsInAnswer ? 1 : 0)]),
  };
}
