import type { CommittedToken, DoneEvent } from "../../engine/index.js";
import type { ApiUsage } from "./responses.js";

/** What was generated of one choice. */
export interface Generated {
  index: number;
  text: string;
  ids: number[];
  tokens: CommittedToken[];
  finishReason: DoneEvent["finishReason"];
  stopReason: string | number | undefined;
}

/** A piece of a stream. */
export interface Piece {
  index: number;
  text: string;
  ids: readonly number[];
  tokens: readonly CommittedToken[];
  done?: { finishReason: DoneEvent["finishReason"]; stopReason: string | number | undefined };
}

/** How an endpoint writes what was generated: /v1/completions and /v1/chat/completions differ in nothing else. */
export interface Dialect {
  readonly id: string;
  /** What the stream of a choice begins with, if with anything: the role, the echoed prompt. */
  opening(index: number): object | undefined;
  /** The chunk of one piece; an empty piece is what a denoising pass is hung on. */
  chunk(piece: Piece): object;
  /** The last chunk, of the usage. */
  usageChunk(usage: ApiUsage): object;
  /** What the totals of the `dllm` object hold besides those of every request. */
  totals?(): object;
  response(choices: readonly Generated[], usage: ApiUsage): object;
}

/** OpenAI's names. A choice that was given up is cut off as by its length. */
export function finishReasonName(reason: DoneEvent["finishReason"]): "stop" | "length" {
  return reason === "stop" ? "stop" : "length";
}

/** Of what every chunk and response has. */
export interface Head {
  id: string;
  created: number;
  model: string;
  system_fingerprint: string;
}
