import type { ChatMessage, ChatRenderOptions, TokenizerOptions } from "../../tokenizer/index.js";

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
