import { request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import { setTimeout as wait } from "node:timers/promises";
import { EvaluationError } from "./errors.js";
import {
  type AnswerGenerator,
  type CompleteOptions,
  type Generation,
  type GenerationRequest,
  type GeneratorInfo,
  inParallel,
} from "./generate.js";
import type { Decoding } from "./options.js";

export interface EvalServerOptions {
  /** With or without /v1 at its end. */
  url: string;
  /** Default: the first that the server lists. */
  model?: string;
  apiKey?: string;
  /** Requests at a time. Default 16. */
  concurrency?: number;
  /** Send the stop strings, which some servers take at most four of. They are cut off here in any case. Default true. */
  sendStop?: boolean;
}

/** Tries of one request, for a server that is busy or being restarted. */
const TRIES = 6;
const [FIRST_WAIT, LONGEST_WAIT] = [1000, 30_000];
const MAX_RESPONSE = 64 * 2 ** 20;

/** A server that speaks OpenAI's protocol: /v1/completions for text, /v1/chat/completions for messages. */
export class ServerGenerator implements AnswerGenerator {
  readonly #options: EvalServerOptions;
  readonly #decoding: Decoding;
  readonly #base: string;
  #model: string | undefined;

  constructor(options: EvalServerOptions, decoding: Decoding) {
    this.#options = options;
    this.#decoding = decoding;
    this.#base = options.url.replace(/\/+$/, "").replace(/\/v1$/, "");
    this.#model = options.model;
    if (!/^https?:\/\//.test(this.#base)) {
      throw new EvaluationError(
        "EVAL_OPTIONS",
        `server: expected an address such as http://127.0.0.1:8000, got ${options.url}`,
      );
    }
  }

  async info(signal?: AbortSignal): Promise<GeneratorInfo> {
    if (this.#model === undefined) {
      const list = (await this.#send("/v1/models", undefined, signal)) as { data?: { id?: unknown }[] };
      const id = list.data?.[0]?.id;
      if (typeof id !== "string") throw this.#error("/v1/models", "it lists no model");
      this.#model = id;
    }
    return { kind: "server", name: this.#model, details: { url: this.#base } };
  }

  async complete(requests: readonly GenerationRequest[], { signal, onDone }: CompleteOptions): Promise<void> {
    const { name } = await this.info(signal);
    await inParallel(requests.length, this.#options.concurrency ?? 16, async (index) => {
      signal?.throwIfAborted();
      onDone(index, await this.#answer(name, requests[index], signal));
    });
  }

  async #answer(model: string, request: GenerationRequest, signal?: AbortSignal): Promise<Generation> {
    const { prompt, stop, maxTokens, seed } = request;
    const { temperature, topP, topK } = this.#decoding;
    const body = {
      ...{ model, temperature, seed, max_tokens: maxTokens },
      ...(topP < 1 && { top_p: topP }),
      ...(topK > 0 && { top_k: topK }),
      ...(stop.length > 0 && this.#options.sendStop !== false && { stop }),
      ...this.#extension(),
    };
    const isText = "text" in prompt;
    const path = isText ? "/v1/completions" : "/v1/chat/completions";
    const asked = isText
      ? { prompt: prompt.text, ...(prompt.suffix !== undefined && { suffix: prompt.suffix }) }
      : { messages: [{ role: "user", content: prompt.message }] };
    const answer = (await this.#send(path, { ...body, ...asked }, signal)) as CompletionAnswer;
    const choice = answer.choices?.[0];
    const text = isText ? choice?.text : choice?.message?.content;
    if (typeof text !== "string") throw this.#error(path, "its answer has no text");
    return { text, finishReason: choice?.finish_reason ?? "stop", tokens: answer.usage?.completion_tokens };
  }

  /** This library's extension of the protocol, sent only where a setting needs it: other servers refuse it. */
  #extension() {
    const { mode, blockSize, steps, threshold } = this.#decoding;
    const dllm = {
      ...(mode === "autoregressive" && { mode }),
      ...(blockSize !== undefined && { block_size: blockSize }),
      ...(steps !== undefined && { steps }),
      ...(threshold !== undefined && { threshold }),
    };
    return Object.keys(dllm).length > 0 ? { dllm } : {};
  }

  async #send(path: string, body: unknown, signal?: AbortSignal): Promise<unknown> {
    for (let attempt = 1; ; attempt++) {
      let problem: string;
      let delay = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1));
      try {
        const { status, text, retryAfter } = await exchange(`${this.#base}${path}`, body, this.#options.apiKey, signal);
        if (status === 200) return JSON.parse(text);
        problem = `HTTP ${status}: ${text.slice(0, 500)}`;
        if (status !== 429 && status < 500) throw this.#error(path, problem);
        if (retryAfter !== undefined) delay = Math.min(LONGEST_WAIT, 1000 * retryAfter);
      } catch (cause) {
        signal?.throwIfAborted();
        if (cause instanceof EvaluationError) throw cause;
        problem =
          cause instanceof Error ? cause.message || String((cause as NodeJS.ErrnoException).code) : String(cause);
      }
      if (attempt === TRIES) throw this.#error(path, problem);
      await wait(delay, undefined, { signal }).catch(() => signal?.throwIfAborted());
    }
  }

  #error(path: string, problem: string): EvaluationError {
    return new EvaluationError("EVAL_MODEL", `${this.#base}${path}: ${problem}`);
  }
}

interface CompletionAnswer {
  choices?: { text?: unknown; message?: { content?: unknown }; finish_reason?: string }[];
  usage?: { completion_tokens?: number };
}

/** One request without a time limit, which `fetch` has: an answer may take many minutes. */
function exchange(
  url: string,
  body: unknown,
  apiKey: string | undefined,
  signal?: AbortSignal,
): Promise<{ status: number; text: string; retryAfter?: number }> {
  return new Promise((resolve, reject) => {
    const send = url.startsWith("https:") ? httpsRequest : httpRequest;
    const headers = { "content-type": "application/json", ...(apiKey && { authorization: `Bearer ${apiKey}` }) };
    const request = send(url, { method: body === undefined ? "GET" : "POST", headers, signal }, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (chunk: string) => {
        text += chunk;
        if (text.length > MAX_RESPONSE) request.destroy(new Error("the answer is longer than 64 MiB"));
      });
      response.on("error", reject);
      response.on("end", () => {
        const after = Number(response.headers["retry-after"]);
        resolve({
          status: response.statusCode ?? 0,
          text,
          retryAfter: Number.isFinite(after) && after > 0 ? after : undefined,
        });
      });
    });
    request.on("error", reject);
    request.end(body === undefined ? undefined : JSON.stringify(body));
  });
}
