import type { ChatMessage } from "../tokenizer/chat-template.js";
import { parseChatJson } from "../tokenizer/index.js";

/** A JSON object. */
export type JsonRecord = Readonly<Record<string, unknown>>;

/** A record that cannot be used: "form" if its kind is unsupported, "malformed" if this record is invalid. */
export class RecordError extends Error {
  readonly kind: "form" | "malformed";

  constructor(kind: "form" | "malformed", message: string) {
    super(message);
    this.name = "RecordError";
    this.kind = kind;
  }
}

export function asRecord(value: unknown): JsonRecord {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as JsonRecord;
  throw new RecordError("malformed", "not a JSON object in UTF-8");
}

/** @throws RecordError unless it is a non-empty list */
export function readList(value: unknown, key: string): readonly unknown[] {
  if (!Array.isArray(value)) throw new RecordError("malformed", `${key}: expected a list`);
  return value;
}

/** Whether a field has content: null, "", [] and {} do not. */
export function filled(value: unknown): boolean {
  if (value === undefined || value === null || value === "") return false;
  return typeof value !== "object" || Object.keys(value).length > 0;
}

/** Messages for a template, and which of them are answers to train on. */
interface Messages {
  messages: ChatMessage[];
  answers: boolean[];
}

/** Roles by the speaker names of ShareGPT's records, as in LLaMA-Factory, axolotl and FastChat. */
const SPEAKERS: Readonly<Record<string, string>> = {
  ...{ human: "user", user: "user", prompter: "user" },
  ...{ gpt: "assistant", assistant: "assistant", model: "assistant", chatgpt: "assistant", bing: "assistant" },
  ...{ bard: "assistant", system: "system" },
  ...{ tool: "tool", observation: "tool", function_response: "tool", tool_response: "tool" },
};

/**
 * Messages with `role` and `content`; other fields (`tool_calls`, `name`, ...) go to the template. An assistant's
 * message with `weight: 0` (OpenAI) or `train: false` (axolotl) is not trained on.
 *
 * @throws RecordError
 */
export function readMessages(value: unknown, key: string): Messages {
  const list = listOf(value, key);
  const answers: boolean[] = [];
  const messages = list.map((each, i) => {
    const at = `${key}[${i}]`;
    const { weight, train, ...message } = objectAt(each, at);
    if (typeof message.role !== "string") throw new RecordError("malformed", `${at}.role: expected a string`);
    const calls = Array.isArray(message.tool_calls) && message.tool_calls.length > 0;
    const content = contentOf(message.content ?? null, `${at}.content`, calls || message.function_call != null);
    answers.push(message.role === "assistant" && counts(weight, train, at));
    return { ...message, content } as ChatMessage;
  });
  return { messages, answers };
}

/**
 * ShareGPT's turns with `from` and `value`. The value of a `function_call` is one call or a list of them in JSON.
 *
 * @throws RecordError
 */
export function readTurns(value: unknown, key: string): Messages {
  const list = listOf(value, key);
  const answers: boolean[] = [];
  const messages = list.map((each, i): ChatMessage => {
    const at = `${key}[${i}]`;
    const { from, value: text, weight, train } = objectAt(each, at);
    if (typeof from !== "string") throw new RecordError("malformed", `${at}.from: expected a string`);
    if (typeof text !== "string") throw new RecordError("malformed", `${at}.value: expected a string`);
    const role = from === "function_call" ? "assistant" : SPEAKERS[from.toLowerCase()];
    if (role === undefined) {
      const known = [...Object.keys(SPEAKERS), "function_call"].join(", ");
      throw new RecordError("malformed", `${at}.from is '${from.slice(0, 40)}', allowed: ${known}`);
    }
    answers.push(role === "assistant" && counts(weight, train, at));
    return from === "function_call"
      ? { role, content: "", tool_calls: readCalls(text, `${at}.value`) }
      : { role, content: text };
  });
  return { messages, answers };
}

function listOf(value: unknown, key: string): readonly unknown[] {
  const list = readList(value, key);
  if (list.length === 0) throw new RecordError("malformed", `${key}: expected at least one message`);
  return list;
}

function objectAt(value: unknown, at: string): JsonRecord {
  try {
    return asRecord(value);
  } catch {
    throw new RecordError("malformed", `${at}: expected an object`);
  }
}

/** Text or text parts; null if the message calls tools instead. Parts that are not text are rejected. */
function contentOf(content: unknown, at: string, calls: boolean): unknown {
  if (typeof content === "string") return content;
  if (content === null && calls) return null;
  if (!Array.isArray(content)) throw new RecordError("malformed", `${at}: expected a string or parts of text`);
  for (const [i, part] of content.entries()) {
    const { type, text } = objectAt(part, `${at}[${i}]`);
    if (type !== "text" || typeof text !== "string") {
      const found = typeof type === "string" ? `'${type.slice(0, 40)}'` : "none";
      throw new RecordError("malformed", `${at}[${i}]: its type is ${found}, allowed: 'text'`);
    }
  }
  return content;
}

function counts(weight: unknown, train: unknown, at: string): boolean {
  // 1.0 is parsed to a boxed number, see parseChatJson
  const given = weight instanceof Number ? weight.valueOf() : weight;
  if (given !== undefined && given !== null && given !== 0 && given !== 1) {
    throw new RecordError("malformed", `${at}.weight: expected 0 or 1`);
  }
  return given !== 0 && train !== false;
}

function readCalls(text: string, at: string): unknown[] {
  let value: unknown;
  try {
    value = parseChatJson(text);
  } catch {
    throw new RecordError("malformed", `${at}: expected a function call in JSON`);
  }
  return (Array.isArray(value) ? value : [value]).map((call) => {
    const { name, arguments: given } = objectAt(call, at);
    if (typeof name !== "string") throw new RecordError("malformed", `${at}: the call has no name`);
    return { type: "function", function: { name, arguments: given ?? {} } };
  });
}
