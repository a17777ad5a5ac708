import type { CommittedToken } from "../../engine/index.js";
import { type Dialect, finishReasonName, type Generated, type Head, type Piece } from "./dialect.js";
import { finite } from "./steps.js";
import type { ApiUsage } from "./usage.js";

export interface ChatOptions {
  logprobs: boolean;
  tokenIds: boolean;
}

/** /v1/chat/completions */
export class ChatDialect implements Dialect {
  readonly #head: Head;
  readonly #options: ChatOptions;

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
      logprobs: tokens.length > 0 ? this.#logprobs(tokens) : null,
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
      logprobs: this.#logprobs(tokens),
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

  #logprobs(tokens: readonly CommittedToken[]): object | null {
    if (!this.#options.logprobs) return null;
    const entry = ({ text, logprob }: { text: string; logprob: number }) => ({
      token: text,
      logprob: finite(logprob),
      bytes: [...Buffer.from(text, "utf8")],
    });
    const content = tokens.map((token) => ({
      ...entry(token),
      top_logprobs: (token.topLogprobs ?? []).map(entry),
    }));
    return { content, refusal: null };
  }
}
