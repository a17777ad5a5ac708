import type { CommittedToken } from "../../engine/index.js";
import type { Tokenizer } from "../../tokenizer/index.js";
import { type Dialect, finishReasonName, type Generated, type Head, type Piece } from "./dialect.js";
import { finite } from "./steps.js";
import { TokenPlaces } from "./token-places.js";
import type { ApiUsage } from "./usage.js";

export interface ChatOptions {
  logprobs: boolean;
  tokenIds: boolean;
  tokenizer: Tokenizer;
}

/** /v1/chat/completions */
export class ChatDialect implements Dialect {
  readonly #head: Head;
  readonly #options: ChatOptions;
  /** By choice, where its next token is. */
  readonly #places = new Map<number, TokenPlaces>();

  constructor(head: Head, options: ChatOptions) {
    this.#head = head;
    this.#options = options;
  }

  get id(): string {
    return this.#head.id;
  }

  opening(index: number): object {
    const delta = { role: "assistant", content: "" };
    return this.#wrap("chat.completion.chunk", [{ index, delta, logprobs: null, finish_reason: null }]);
  }

  chunk({ index, text, ids, tokens, done }: Piece): object {
    const choice = {
      index,
      delta: text === "" ? {} : { content: text },
      logprobs: tokens.length > 0 ? this.#logprobs(index, tokens) : null,
      finish_reason: done ? finishReasonName(done.finishReason) : null,
      ...(done && { stop_reason: done.stopReason ?? null }),
      ...(this.#options.tokenIds && { token_ids: ids }),
    };
    return this.#wrap("chat.completion.chunk", [choice]);
  }

  usageChunk(usage: ApiUsage): object {
    return { ...this.#wrap("chat.completion.chunk", []), usage };
  }

  response(choices: readonly Generated[], usage: ApiUsage): object {
    const written = choices.map(({ index, text, ids, tokens, finishReason, stopReason }) => ({
      index,
      message: { role: "assistant", content: text, refusal: null },
      logprobs: this.#logprobs(index, tokens),
      finish_reason: finishReasonName(finishReason),
      stop_reason: stopReason ?? null,
      ...(this.#options.tokenIds && { token_ids: ids }),
    }));
    return { ...this.#wrap("chat.completion", written), usage };
  }

  #wrap(object: string, choices: object[]): object {
    const { id, created, model, system_fingerprint } = this.#head;
    return { id, object, created, model, system_fingerprint, choices };
  }

  #logprobs(index: number, tokens: readonly CommittedToken[]): object | null {
    if (!this.#options.logprobs) return null;
    const { tokenizer } = this.#options;
    const places = this.#places.get(index) ?? new TokenPlaces(tokenizer);
    this.#places.set(index, places);
    const content = tokens.map(({ id, text, logprob, topLogprobs = [] }) => ({
      token: text,
      logprob: finite(logprob),
      bytes: places.place(id).bytes,
      top_logprobs: topLogprobs.map((each) => ({
        token: each.text,
        logprob: finite(each.logprob),
        bytes: [...tokenizer.bytesOf(each.id)],
      })),
    }));
    return { content, refusal: null };
  }
}
