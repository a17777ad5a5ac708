import { workerData } from "node:worker_threads";
import { type ChatMessage, type ChatRenderOptions, Tokenizer, type TokenizerOptions } from "../../tokenizer/index.js";
import { Transfer } from "../../worker/messages.js";
import { serve } from "../../worker/serve.js";

/** Ids of a text; or, of a text that has more tokens than `maxLength`, seen by its length: nothing was spent on it. */
export type EncodedPrompt = { ids: Int32Array } | { atLeast: number };

export interface PromptHandlers {
  encode(task: { text: string; addSpecialTokens: boolean; maxLength: number }): EncodedPrompt | Transfer<EncodedPrompt>;
  chat(task: {
    messages: readonly ChatMessage[];
    options: ChatRenderOptions;
    addSpecialTokens: boolean;
    maxLength: number;
  }): EncodedPrompt | Transfer<EncodedPrompt>;
  decode(ids: readonly number[]): string;
  /** Each id by itself. */
  names(ids: readonly number[]): string[];
}

/** The tokenizer it works with: read from a folder, and the same as another that was read there. */
export interface PromptTokenizer {
  dir: string;
  hash: string;
  options: TokenizerOptions;
}

// The thread in which the model's own template and tokenizer run. It can be ended at any moment.

serve<PromptHandlers>(() => {
  const { dir, hash, options } = workerData as PromptTokenizer;
  const tokenizer = Tokenizer.fromPretrained(dir, options);
  if (tokenizer.hash !== hash) throw new Error(`the tokenizer in ${dir} is not the one that was loaded at the start`);
  const longestToken = longestTokenOf(tokenizer);

  const encode: PromptHandlers["encode"] = ({ text, addSpecialTokens, maxLength }) => {
    const atLeast = Math.ceil(text.length / longestToken);
    if (atLeast > maxLength) return { atLeast };
    const ids = tokenizer.encodeInt32(text, { addSpecialTokens });
    return new Transfer<EncodedPrompt>({ ids }, [ids.buffer as ArrayBuffer]);
  };
  return {
    encode,
    chat: ({ messages, options, ...rest }) => encode({ text: tokenizer.renderChat(messages, options), ...rest }),
    decode: (ids) => tokenizer.decode(ids),
    names: (ids) => ids.map((id) => tokenizer.decode([id])),
  };
});

/** Bytes of the longest token; a text has at least as many tokens as its characters fill such ones. */
function longestTokenOf(tokenizer: Tokenizer): number {
  let longest = 1;
  for (let id = 0; id < tokenizer.vocabSize; id++) longest = Math.max(longest, tokenizer.rawBytesOf(id).length);
  return longest;
}
