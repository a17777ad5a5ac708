import { parentPort, workerData } from "node:worker_threads";
import {
  type ChatMessage,
  type ChatRenderOptions,
  Tokenizer,
  TokenizerError,
  type TokenizerOptions,
} from "../../tokenizer/index.js";

/** What a prompt thread is asked. */
export type PromptTask =
  | { kind: "encode"; text: string; addSpecialTokens: boolean; maxLength: number }
  | {
      kind: "chat";
      messages: readonly ChatMessage[];
      options: ChatRenderOptions;
      addSpecialTokens: boolean;
      maxLength: number;
    }
  | { kind: "decode"; ids: readonly number[] }
  /** Each id by itself. */
  | { kind: "names"; ids: readonly number[] };

/** What it answers. */
export type PromptAnswer =
  | { ids: Int32Array }
  /** A text that has more tokens than `maxLength`, seen by its length: nothing was spent on it. */
  | { atLeast: number }
  | { text: string }
  | { names: string[] }
  | { error: { code: string; message: string } };

/** The tokenizer it works with: read from a folder, and the same as another that was read there. */
export interface PromptTokenizer {
  dir: string;
  hash: string;
  options: TokenizerOptions;
}

// The thread in which the model's own template and tokenizer run. It can be ended at any moment.

const { dir, hash, options } = workerData as PromptTokenizer;
const tokenizer = Tokenizer.fromPretrained(dir, options);
if (tokenizer.hash !== hash) throw new Error(`the tokenizer in ${dir} is not the one that was loaded at the start`);

/** Bytes of the longest token; a text has at least as many tokens as its characters fill such ones. */
const longestToken = Math.max(
  1,
  ...Array.from({ length: Math.ceil(tokenizer.vocabSize / 4096) }, (_, part) => {
    let longest = 0;
    const end = Math.min(tokenizer.vocabSize, (part + 1) * 4096);
    for (let id = part * 4096; id < end; id++) longest = Math.max(longest, tokenizer.rawBytesOf(id).length);
    return longest;
  }),
);

function encode(text: string, addSpecialTokens: boolean, maxLength: number): PromptAnswer {
  const atLeast = Math.ceil(text.length / longestToken);
  if (atLeast > maxLength) return { atLeast };
  return { ids: tokenizer.encodeInt32(text, { addSpecialTokens }) };
}

function work(task: PromptTask): PromptAnswer {
  switch (task.kind) {
    case "encode":
      return encode(task.text, task.addSpecialTokens, task.maxLength);
    case "chat": {
      const text = tokenizer.renderChat(task.messages, task.options);
      return encode(text, task.addSpecialTokens, task.maxLength);
    }
    case "decode":
      return { text: tokenizer.decode(task.ids) };
    case "names":
      return { names: task.ids.map((id) => tokenizer.decode([id])) };
  }
}

parentPort?.on("message", (task: PromptTask) => {
  let answer: PromptAnswer;
  try {
    answer = work(task);
  } catch (error) {
    const code = error instanceof TokenizerError ? error.code : "internal";
    answer = { error: { code, message: error instanceof Error ? error.message : String(error) } };
  }
  parentPort?.postMessage(answer, "ids" in answer ? [answer.ids.buffer as ArrayBuffer] : []);
});
parentPort?.postMessage("ready");
