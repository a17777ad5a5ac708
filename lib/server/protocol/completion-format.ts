import type { CommittedToken, ScoreResult } from "../../engine/index.js";
import type { Tokenizer } from "../../tokenizer/index.js";
import {
  finishReasonName,
  finite,
  type Generated,
  type Head,
  type Piece,
  type ResponseFormat,
} from "./response-format.js";
import type { ApiUsage, CompletionLogprobs } from "./responses.js";
import { codePoints, TokenPlaces } from "./token-places.js";

/** A prompt that is sent back first. */
export interface Echo {
  text: string;
  ids: number[];
  /** The text of each token, whether it is in the prompt's text, and the score, where logprobs are asked for. */
  scored?: { texts: string[]; shown: boolean[]; score: ScoreResult };
}

export interface CompletionOptions {
  /** Undefined: none; else number of most likely tokens. */
  logprobs: number | undefined;
  /** By prompt. */
  echo: readonly (Echo | undefined)[];
  n: number;
  tokenIds: boolean;
  tokenizer: Tokenizer;
}

/** /v1/completions */
export class CompletionFormat implements ResponseFormat {
  readonly #head: Head;
  readonly #options: CompletionOptions;
  /** By choice, where its next token is. */
  readonly #places = new Map<number, TokenPlaces>();

  constructor(head: Head, options: CompletionOptions) {
    this.#head = head;
    this.#options = options;
  }

  get id(): string {
    return this.#head.id;
  }

  opening(index: number): object | undefined {
    const echo = this.#echoOf(index);
    if (!echo) return undefined;
    const choice = { index, text: echo.text, logprobs: this.#promptLogprobs(echo), finish_reason: null };
    const chunk = this.#wrap([{ ...choice, ...(this.#options.tokenIds && { token_ids: echo.ids }) }]);
    return echo.scored ? { ...chunk, dllm: { index, score: apiScore(echo.scored.score) } } : chunk;
  }

  totals(): object {
    const scores = this.#options.echo.flatMap((echo) => (echo?.scored ? [apiScore(echo.scored.score)] : []));
    return scores.length > 0 ? { scores } : {};
  }

  chunk({ index, text, ids, tokens, done }: Piece): object {
    const choice = {
      index,
      text,
      logprobs: tokens.length > 0 ? this.#logprobs(index, tokens) : null,
      finish_reason: done ? finishReasonName(done.finishReason) : null,
      ...(done && { stop_reason: done.stopReason ?? null }),
      ...(this.#options.tokenIds && { token_ids: ids }),
    };
    return this.#wrap([choice]);
  }

  usageChunk(usage: ApiUsage): object {
    return { ...this.#wrap([]), usage };
  }

  response(choices: readonly Generated[], usage: ApiUsage): object {
    const written = choices.map(({ index, text, ids, tokens, finishReason, stopReason }) => {
      const echo = this.#echoOf(index);
      const before = echo && this.#promptLogprobs(echo);
      const after = this.#logprobs(index, tokens);
      return {
        index,
        text: (echo?.text ?? "") + text,
        logprobs: before && after ? join(before, after) : after,
        finish_reason: finishReasonName(finishReason),
        stop_reason: stopReason ?? null,
        ...(this.#options.tokenIds && { token_ids: [...(echo?.ids ?? []), ...ids] }),
      };
    });
    return { ...this.#wrap(written), usage };
  }

  #wrap(choices: object[]): object {
    const { id, created, model, system_fingerprint } = this.#head;
    return { id, object: "text_completion", created, model, system_fingerprint, choices };
  }

  #echoOf(index: number): Echo | undefined {
    return this.#options.echo[Math.floor(index / this.#options.n)];
  }

  #logprobs(index: number, tokens: readonly CommittedToken[]): CompletionLogprobs | null {
    const top = this.#options.logprobs;
    if (top === undefined) return null;
    return {
      tokens: tokens.map(({ text }) => text),
      token_logprobs: tokens.map(({ logprob }) => finite(logprob)),
      top_logprobs: top === 0 ? null : tokens.map((token) => topOf(token, token.topLogprobs ?? [])),
      text_offset: tokens.map(({ id }) => this.#placesOf(index).place(id).offset),
    };
  }

  #promptLogprobs({ ids, scored }: Echo): CompletionLogprobs | null {
    if (!scored || this.#options.logprobs === undefined) return null;
    const { texts, shown, score } = scored;
    const places = new TokenPlaces(this.#options.tokenizer);
    const tops = score.topLogprobs;
    return {
      tokens: texts,
      token_logprobs: score.logprobs.map((each) => (each === null ? null : finite(each))),
      top_logprobs:
        this.#options.logprobs === 0
          ? null
          : texts.map((text, i) => {
              const logprob = score.logprobs[i];
              return logprob === null ? null : topOf({ text, logprob }, tops?.[i] ?? []);
            }),
      text_offset: ids.map((id, i) => places.place(id, shown[i]).offset),
    };
  }

  #placesOf(index: number): TokenPlaces {
    const known = this.#places.get(index);
    if (known) return known;
    const places = new TokenPlaces(this.#options.tokenizer, codePoints(this.#echoOf(index)?.text ?? ""));
    this.#places.set(index, places);
    return places;
  }
}

/** How an echoed prompt was scored. */
function apiScore({ mode, nll, standardError, mcSamples }: ScoreResult): object {
  return { mode, nll, standard_error: standardError, mc_samples: mcSamples };
}

/** The most likely tokens and the chosen one, by text. Of tokens that look alike the likelier one counts. */
function topOf(
  chosen: { text: string; logprob: number },
  mostLikely: readonly { text: string; logprob: number }[],
): Record<string, number> {
  const top = new Map<string, number>();
  for (const { text, logprob } of mostLikely) if (!top.has(text)) top.set(text, finite(logprob));
  if (!top.has(chosen.text)) top.set(chosen.text, finite(chosen.logprob));
  return Object.fromEntries(top);
}

function join(a: CompletionLogprobs, b: CompletionLogprobs): CompletionLogprobs {
  return {
    tokens: [...a.tokens, ...b.tokens],
    token_logprobs: [...a.token_logprobs, ...b.token_logprobs],
    top_logprobs: a.top_logprobs && b.top_logprobs && [...a.top_logprobs, ...b.top_logprobs],
    text_offset: [...a.text_offset, ...b.text_offset],
  };
}
