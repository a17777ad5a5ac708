import type { ChatMessage, ChatRenderOptions } from "../tokenizer/chat-template.js";
import { parseChatJson } from "../tokenizer/index.js";
import { asRecord, filled, type JsonRecord, RecordError, readList, readMessages, readTurns } from "./sft-messages.js";

/** A conversation whose answers are trained on, rendered by a chat template. */
export interface SftConversation {
  readonly messages: readonly ChatMessage[];
  /** Per message: whether it is an answer that is trained on. */
  readonly answers: readonly boolean[];
  /** `tools`, `documents` and other variables of the template. */
  readonly render: ChatRenderOptions;
  /** Used if the tokenizer has no template: the text before the only answer, and the answer. */
  readonly plain?: { readonly prompt: string; readonly answer: string };
}

/** A conversation, or a prompt and its answer without a template. */
export type SftRecord = SftConversation | { readonly prompt: string; readonly answer: string };

/** A parsed record, and its unused fields. */
export interface ParsedRecord {
  readonly record: SftRecord;
  readonly unread: readonly string[];
}

/** Names of the fields for an instruction, a verbatim prompt and an answer; the first one present is used. */
const INSTRUCTIONS = ["instruction", "question", "problem"];
const ANSWERS = ["answer", "completion", "response", "output", "solution"];

/** Fields that common tools render as text, so that leaving them out would change the sample. */
const TEXT_FIELDS = new Set([
  ...["input", "context", "system", "system_prompt", "history", "suffix", "query"],
  ...["tools", "functions", "documents", "chat_template_kwargs"],
  ...["images", "image", "videos", "video", "audios", "audio"],
]);

/** The forms of records and their identifying fields. The first match is used. */
const FORMS: {
  name: string;
  fits: (record: JsonRecord) => boolean;
  read: (record: JsonRecord, used: Used) => SftRecord;
}[] = [
  { name: "messages", fits: (record) => filled(record.messages), read: readChat },
  { name: "conversations", fits: (record) => filled(record.conversations), read: readShareGpt },
  {
    name: "prompt and completion as messages",
    fits: (record) => Array.isArray(record.prompt) && firstOf(record, ANSWERS) !== undefined,
    read: readPromptCompletion,
  },
  {
    name: "instruction",
    fits: (record) => firstOf(record, INSTRUCTIONS) !== undefined && firstOf(record, ANSWERS) !== undefined,
    read: readInstruction,
  },
  {
    name: "prompt",
    fits: (record) => typeof record.prompt === "string" && firstOf(record, ANSWERS) !== undefined,
    read: readPair,
  },
];

/** Names of the fields that a form has read. */
type Used = Set<string>;

/**
 * Parses a record of supervised fine-tuning by its fields: OpenAI's `messages`, ShareGPT's `conversations`, TRL's
 * `prompt` and `completion`, Alpaca's `instruction`, `input` and `output`, or a prompt and its answer.
 *
 * @param ignore fields to ignore
 * @throws RecordError "form" for an unsupported kind of record (preferences) or one that would lose text (an unused
 *   text field, two forms in one record), "malformed" for a record that matches none of the forms
 */
export function parseSftRecord(value: unknown, ignore: ReadonlySet<string> = new Set()): ParsedRecord {
  const record = Object.fromEntries(Object.entries(asRecord(value)).filter(([key]) => !ignore.has(key)));
  refusePreferences(record);
  const fitting = FORMS.filter((form) => form.fits(record));
  if (fitting.length === 0) throw new RecordError("malformed", noForm(record));
  if (fitting.length > 1) {
    const names = fitting.map((form) => form.name).join(", and ");
    throw new RecordError(
      "form",
      `it can be read as ${names}: exclude the fields of one with ignore: [...]${fieldsOf(record)}`,
    );
  }
  const used: Used = new Set();
  const parsed = fitting[0].read(record, used);
  const unread = Object.keys(record).filter((key) => !used.has(key) && filled(record[key]));
  const lost = unread.filter((key) => TEXT_FIELDS.has(key));
  if (lost.length > 0) {
    const what = `${lost.join(", ")} would be lost: records with ${fitting[0].name} do not use it`;
    throw new RecordError("form", `${what}; move its content, or exclude it with ignore: [...]${fieldsOf(record)}`);
  }
  return { record: parsed, unread };
}

function refusePreferences(record: JsonRecord): void {
  const refuse = (what: string) => new RecordError("form", `it is ${what}, which supervised fine-tuning does not use`);
  if (record.chosen !== undefined || record.rejected !== undefined) throw refuse("a preference (chosen, rejected)");
  if (Array.isArray(record.completions)) throw refuse("a record of several completions with labels");
  if (typeof record.label === "boolean" && record.completion !== undefined) {
    throw refuse("an unpaired preference (completion, label)");
  }
}

function readChat(record: JsonRecord, used: Used): SftConversation {
  used.add("messages");
  return conversation(readMessages(record.messages, "messages"), record, used);
}

function readShareGpt(record: JsonRecord, used: Used): SftConversation {
  used.add("conversations");
  const first = (readList(record.conversations, "conversations")[0] ?? {}) as JsonRecord;
  const read = first.from === undefined && first.role !== undefined ? readMessages : readTurns;
  return conversation(read(record.conversations, "conversations"), record, used);
}

function readPromptCompletion(record: JsonRecord, used: Used): SftConversation {
  const key = firstOf(record, ANSWERS) as string;
  used.add("prompt").add(key);
  const prompt = readMessages(record.prompt, "prompt");
  const given = record[key];
  const completion = readMessages(typeof given === "string" ? [{ role: "assistant", content: given }] : given, key);
  const { messages, answers } = { messages: [...prompt.messages, ...completion.messages], answers: completion.answers };
  return conversation({ messages, answers: [...prompt.messages.map(() => false), ...answers] }, record, used);
}

function readInstruction(record: JsonRecord, used: Used): SftConversation {
  const instructionKey = firstOf(record, INSTRUCTIONS) as string;
  const answerKey = firstOf(record, ANSWERS) as string;
  used.add(instructionKey).add(answerKey).add("input").add("history");
  const instruction = textOf(record, instructionKey);
  const answer = textOf(record, answerKey);
  const input = record.input === undefined || record.input === null ? "" : textOf(record, "input");
  const history = record.history === undefined || record.history === null ? [] : readList(record.history, "history");
  const turns = history.flatMap((pair, i) => {
    const isPair = Array.isArray(pair) && pair.length === 2 && pair.every((text) => typeof text === "string");
    if (!isPair) throw new RecordError("malformed", `history[${i}]: expected [prompt, answer]`);
    return [
      { role: "user", content: pair[0] as string },
      { role: "assistant", content: pair[1] as string },
    ];
  });
  const question = input === "" ? instruction : `${instruction}\n${input}`; // as LLaMA-Factory joins them
  const messages = [...turns, { role: "user", content: question }, { role: "assistant", content: answer }];
  const answers = messages.map(({ role }) => role === "assistant");
  const plain = { prompt: alpacaPrompt(instruction, input), answer };
  const isPlain = history.length === 0 && !filled(record.system) && !filled(record.tools);
  return { ...conversation({ messages, answers }, record, used), ...(isPlain && { plain }) };
}

function readPair(record: JsonRecord, used: Used): SftRecord {
  const key = firstOf(record, ANSWERS) as string;
  used.add("prompt").add(key);
  return { prompt: textOf(record, "prompt"), answer: textOf(record, key) };
}

/** The prompt of Stanford's Alpaca, https://github.com/tatsu-lab/stanford_alpaca. */
function alpacaPrompt(instruction: string, input: string): string {
  const [paired, given] =
    input === "" ? ["", ""] : [", paired with an input that provides further context", `### Input:\n${input}\n\n`];
  const task = `Below is an instruction that describes a task${paired}.`;
  const wish = "Write a response that appropriately completes the request.";
  return `${task} ${wish}\n\n### Instruction:\n${instruction}\n\n${given}### Response:`;
}

/** Adds the fields beside the messages: `system`, `tools`, `documents`, `chat_template_kwargs`. */
function conversation(
  { messages, answers }: { messages: ChatMessage[]; answers: boolean[] },
  record: JsonRecord,
  used: Used,
): SftConversation {
  const { system } = record;
  for (const key of ["system", "tools", "documents", "chat_template_kwargs"]) used.add(key);
  if (filled(system)) {
    if (typeof system !== "string") throw new RecordError("malformed", "system: expected a string");
    if (messages[0]?.role === "system")
      throw new RecordError("form", "it has both a system message and a field 'system'");
  }
  const before: ChatMessage[] = filled(system) ? [{ role: "system", content: system as string }] : [];
  const tools = readJson(record.tools, "tools");
  const documents = readJson(record.documents, "documents");
  const variables = record.chat_template_kwargs ?? undefined;
  if (variables !== undefined && (typeof variables !== "object" || Array.isArray(variables))) {
    throw new RecordError("malformed", "chat_template_kwargs: expected an object");
  }
  return {
    messages: [...before, ...messages],
    answers: [...before.map(() => false), ...answers],
    render: {
      ...(tools && { tools }),
      ...(documents && { documents }),
      ...(variables && { variables: variables as Record<string, unknown> }),
    },
  };
}

/**
 * A list, or a JSON text of a list, as for tools in LLaMA-Factory and TRL; undefined if it is absent or an empty text.
 */
function readJson(value: unknown, key: string): readonly unknown[] | undefined {
  if (value === undefined || value === null || value === "") return undefined;
  if (typeof value !== "string") return readList(value, key);
  try {
    return readList(parseChatJson(value), key);
  } catch (error) {
    if (error instanceof RecordError) throw error;
    throw new RecordError("malformed", `${key}: expected a list, or a list as JSON text`);
  }
}

function textOf(record: JsonRecord, key: string): string {
  const value = record[key];
  if (typeof value === "string") return value;
  throw new RecordError("malformed", `${key}: expected a string`);
}

/** The first of these fields that is present. */
function firstOf(record: JsonRecord, keys: readonly string[]): string | undefined {
  return keys.find((key) => record[key] !== undefined && record[key] !== null);
}

function noForm(record: JsonRecord): string {
  const expected = "it has neither messages nor conversations nor prompt (or instruction) with answer";
  const hint = typeof record.text === "string" ? "; text without a prompt is for a corpus (paths)" : "";
  return `${expected} (completion, response, output)${hint}${fieldsOf(record)}`;
}

function fieldsOf(record: JsonRecord): string {
  const keys = Object.keys(record);
  const shown = keys.slice(0, 12).map((key) => (key.length > 40 ? `${key.slice(0, 37)}...` : key));
  return `; its fields: ${shown.join(", ") || "none"}${keys.length > shown.length ? ", ..." : ""}`;
}
