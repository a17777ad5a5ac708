import { ApiFailure, openStream } from "./api.js";
import { Live } from "./live.js";
import { type Mode, type Request, readChunk } from "./protocol.js";
import { Recording } from "./recording.js";
import { eventData } from "./sse.js";

export type RunState = "waiting" | "running" | "done" | "cancelled" | "failed";

export interface Counts {
  /** Passes that were seen; the prompt's own are not among them. */
  forwards: number;
  tokens: number;
  tokensPerForward: number;
  tokensPerSecond: number;
  /** Seconds. undefined: not yet. */
  firstToken: number | undefined;
  elapsed: number;
}

/** Cells that are drawn ahead of the blocks that were reached. */
const AHEAD = 4096;

/** One request and everything it sent back. */
export class Run extends Live {
  readonly mode: Mode;
  readonly request: Request;
  /** What stands before and after the generated text. */
  readonly before: string;
  readonly after: string;
  readonly planned: number;
  readonly recording = new Recording();
  state: RunState = "waiting";
  text = "";
  finishReason = "";
  failure: ApiFailure | undefined;
  promptTokens: number | undefined;
  /** Tokens of the text; unknown before the end. */
  completionTokens: number | undefined;
  /** Passes as the server counts them, those of the prompt included. */
  serverForwards: number | undefined;
  #started = 0;
  #firstToken: number | undefined;
  #ended: number | undefined;
  readonly #controller = new AbortController();

  constructor(mode: Mode, request: Request, around: { before: string; after: string; planned: number }) {
    super();
    this.mode = mode;
    this.request = request;
    this.before = around.before;
    this.after = around.after;
    this.planned = around.planned;
  }

  /** Runs to the end. Failures are in `state` and `failure`; this never rejects. */
  async start(): Promise<void> {
    if (this.#controller.signal.aborted) return;
    const { signal } = this.#controller;
    this.#started = performance.now();
    this.state = "running";
    this.changed();
    try {
      for await (const data of eventData(await openStream(this.request, signal))) {
        if (data === "[DONE]") break;
        this.#take(data);
        this.changed();
      }
      signal.throwIfAborted();
      if (this.finishReason === "") {
        throw new ApiFailure(0, { message: "The stream ended before the text did.", code: "" });
      }
      this.state = "done";
    } catch (error) {
      if (signal.aborted) this.state = "cancelled";
      else this.#fail(error);
    } finally {
      this.#ended = performance.now();
      this.changed();
    }
  }

  cancel(): void {
    if (this.isOver) return;
    this.#controller.abort();
    this.state = "cancelled";
    this.changed();
  }

  get isOver(): boolean {
    return this.state !== "waiting" && this.state !== "running";
  }

  get counts(): Counts {
    const forwards = this.recording.passes.length;
    const tokens = this.completionTokens ?? this.recording.committed;
    const elapsed = this.#started === 0 ? 0 : ((this.#ended ?? performance.now()) - this.#started) / 1000;
    return {
      forwards,
      tokens,
      tokensPerForward: forwards > 0 ? tokens / forwards : 0,
      tokensPerSecond: elapsed > 0 ? tokens / elapsed : 0,
      firstToken: this.#firstToken === undefined ? undefined : (this.#firstToken - this.#started) / 1000,
      elapsed,
    };
  }

  /** Cells of the canvas: those that may still come (a screenful and more is enough), and after the end all that came. */
  get length(): number {
    const { length } = this.recording;
    return this.isOver ? length : Math.max(length, Math.min(this.planned, length + AHEAD));
  }

  /** The run as a plain value. */
  toJSON(): object {
    const { mode, request, state, text, finishReason, recording, counts } = this;
    return {
      format: "diffcoder-run/1",
      mode,
      request,
      state,
      text,
      finish_reason: finishReason || null,
      error: this.failure?.fault ?? null,
      usage: { prompt_tokens: this.promptTokens ?? null, completion_tokens: this.completionTokens ?? null },
      counts,
      first_position: recording.origin,
      passes: recording.passes,
    };
  }

  #take(data: string): void {
    let chunk: unknown;
    try {
      chunk = JSON.parse(data);
    } catch {
      throw new ApiFailure(0, { message: "The stream holds something that is not JSON.", code: "" });
    }
    const facts = readChunk(chunk);
    if (facts.error) throw new ApiFailure(200, facts.error);
    const now = performance.now();
    for (const pass of facts.passes) this.recording.append({ ...pass, at: now - this.#started });
    if (facts.text !== "") this.#firstToken ??= now;
    this.text += facts.text;
    this.finishReason = facts.finishReason ?? this.finishReason;
    this.promptTokens = facts.promptTokens ?? this.promptTokens;
    this.completionTokens = facts.completionTokens ?? this.completionTokens;
    this.serverForwards = facts.forwards ?? this.serverForwards;
  }

  #fail(error: unknown): void {
    this.state = "failed";
    this.failure =
      error instanceof ApiFailure
        ? error
        : new ApiFailure(0, { message: `The connection broke (${(error as Error).message}).`, code: "" });
  }
}
