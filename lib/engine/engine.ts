import { existsSync } from "node:fs";
import { join } from "node:path";
import type { StableDiffCoder } from "../checkpoint/index.js";
import { stagedFolder } from "../checkpoint/staging.js";
import { Tokenizer } from "../tokenizer/tokenizer.js";
import type { Reservation } from "./admission.js";
import { Admission } from "./admission.js";
import { EngineError, parseOptions } from "./errors.js";
import { collectChoices, EventQueue } from "./event-queue.js";
import { type NewRequest, OpenRequests } from "./open-requests.js";
import {
  type EngineOptions,
  type EngineSettings,
  engineOptionsSchema,
  type GenerateOptions,
  generateOptionsSchema,
  type RequestOptions,
  type ReserveOptions,
  requestSizeSchema,
  type ScoreOptions,
  type ScoreRequestOptions,
  scoreOptionsSchema,
} from "./options.js";
import { type CoreReports, errorParts } from "./protocol.js";
import {
  checkScore,
  idsOf,
  makeRequest,
  maxNewTokens,
  type Prompt,
  type PromptRules,
  renderPrompt,
} from "./request.js";
import { Supervisor } from "./supervisor.js";
import type { Choice, EngineEvent, EngineStats, ModelInfo, ScoreResult } from "./types.js";

/** Options of {@link Engine.create}. */
export type EngineCreateOptions = EngineOptions & {
  /** A checkpoint's folder; or a loaded model, which then runs in this thread and stays its owner's. */
  model: string | StableDiffCoder;
};

/**
 * Decodes many requests at once with one model: continuous batching, a paged KV cache, prefix caching. The model runs in a
 * worker thread or process, so that nothing blocks the calling thread.
 *
 * ```ts
 * await using engine = await Engine.create({ model: "checkpoint" });
 * for await (const event of engine.generate("def fib(n):", { maxTokens: 64 })) {
 *   if (event.type === "text") process.stdout.write(event.text);
 * }
 * ```
 */
export class Engine {
  /** Undefined when the checkpoint has none: then prompts are ids and events have no text. */
  readonly tokenizer: Tokenizer | undefined;
  readonly settings: EngineSettings;
  readonly #supervisor: Supervisor;
  readonly #admission: Admission;
  readonly #requests = new OpenRequests();
  /** The model runs in this thread. */
  readonly #isHere: boolean;
  #nextKey = 1;
  #onIdle: (() => void) | undefined;
  #closing: Promise<void> | undefined;

  private constructor(model: string | StableDiffCoder, settings: EngineSettings) {
    this.settings = settings;
    this.tokenizer = tokenizerOf(model);
    this.#isHere = typeof model !== "string" || settings.worker === "none";
    this.#admission = new Admission(settings);
    this.#supervisor = new Supervisor(model, settings, {
      onReports: (reports) => this.#onReports(reports),
      onLost: (error) => this.#failAll(error),
    });
  }

  /**
   * Loads the model and waits until it is ready.
   *
   * @throws EngineError ENGINE_OPTIONS, ENGINE_MODEL, ENGINE_WORKER; TokenizerError for a broken tokenizer
   */
  static async create(options: EngineCreateOptions): Promise<Engine> {
    const { model, ...rest } = options;
    const settings = parseOptions("Engine.create", engineOptionsSchema, rest);
    if (typeof model !== "string") checkGiven(settings);
    const engine = new Engine(model, settings);
    await engine.#supervisor.start();
    return engine;
  }

  /** What is known of the model. */
  get model(): ModelInfo {
    const { info } = this.#supervisor;
    if (!info) throw new EngineError("ENGINE_CLOSED", "the engine is not ready");
    return info;
  }

  /** The worker's process id with `worker: "process"`. */
  get workerPid(): number | undefined {
    return this.#supervisor.pid;
  }

  /**
   * Admits a request of several calls as a whole: prompts that are decoded together, or scored first. They are given the
   * reservation in their `request`; time limits hold from now until it is released.
   *
   * @throws EngineError ENGINE_OPTIONS, ENGINE_QUEUE_FULL, ENGINE_CLOSED, ENGINE_WORKER
   */
  reserve(size: ReserveOptions): Reservation {
    this.#supervisor.requireAccepting();
    return this.#admission.admit(parseOptions("reserve", requestSizeSchema, size));
  }

  /**
   * Decodes a prompt. What is wrong with the request, and limits that are reached, throw here, at the call; what goes
   * wrong later throws from the iterator, after "done" events with the reason "error". Leaving the loop early, or the
   * signal, frees what the request holds; after the signal the events end with "done" for the reason "abort".
   *
   * @param prompt text, or ids as they are
   * @throws EngineError ENGINE_OPTIONS, ENGINE_PROMPT, ENGINE_TOO_LONG, ENGINE_QUEUE_FULL, ENGINE_CLOSED, ENGINE_WORKER
   */
  generate(
    prompt: Prompt,
    options: GenerateOptions = {},
    { signal, reservation }: RequestOptions = {},
  ): AsyncIterableIterator<EngineEvent> {
    const info = this.#supervisor.requireAccepting();
    const parsed = parseOptions("generate", generateOptionsSchema, options);
    const ids = renderPrompt(prompt, parsed.suffix, this.#rules(info));
    const key = this.#nextKey++;
    const model = { tokenizer: this.tokenizer, info, settings: this.settings, isHere: this.#isHere };
    const request = makeRequest(key, ids, parsed, model);
    const { n } = parsed;
    const size = { choices: n, promptTokens: n * ids.length, maxTokens: n * maxNewTokens(parsed) };
    const place = this.#admission.enter(reservation, size, n);
    const queue = this.#open(key, n, { place, isOwn: !reservation, promptTokens: ids.length, queued: n, signal });
    this.#supervisor.post("generate", request);
    if (signal?.aborted) this.#abort(key);
    return queue;
  }

  /** Notes a request that was admitted. @param n choices that will be reported */
  #open(
    key: number,
    n: number,
    {
      signal,
      isOwn,
      place,
      ...request
    }: Omit<NewRequest, "queue" | "release"> & {
      signal: AbortSignal | undefined;
      /** The place is this request's alone, and ends with it. */
      isOwn: boolean;
    },
  ): EventQueue<EngineEvent> {
    const onAbort = () => this.#abort(key);
    const queue = new EventQueue<EngineEvent>(onAbort);
    const removeListener = place.onExpire((error) => this.#expire(key, error));
    const release = () => {
      signal?.removeEventListener("abort", onAbort);
      removeListener();
      if (isOwn) place.release();
    };
    this.#requests.add(key, n, { ...request, queue, place, release });
    signal?.addEventListener("abort", onAbort, { once: true });
    this.#supervisor.ref();
    return queue;
  }

  #rules({ vocabSize }: ModelInfo): PromptRules {
    return { tokenizer: this.tokenizer, fimFormat: this.settings.fimFormat, vocabSize };
  }

  /**
   * Decodes a prompt to its end.
   *
   * @throws as {@link generate}; EngineError ENGINE_OPTIONS for `n` above 1, which {@link completeChoices} takes
   */
  async complete(
    prompt: Prompt,
    options: Omit<GenerateOptions, "n"> = {},
    request: RequestOptions = {},
  ): Promise<Choice> {
    const { n = 1 }: GenerateOptions = options;
    if (n !== 1)
      throw new EngineError("ENGINE_OPTIONS", `complete: n is ${n}, allowed: 1; completeChoices() gives several`);
    const [choice] = await this.completeChoices(prompt, options, request);
    return choice;
  }

  /** Decodes a prompt to its end, `n` times: the choices by their index. */
  async completeChoices(
    prompt: Prompt,
    options: GenerateOptions = {},
    request: RequestOptions = {},
  ): Promise<Choice[]> {
    return collectChoices(this.generate(prompt, { events: "text", ...options }, request));
  }

  /** Decodes many prompts to their ends; they share batches as they fit. Result i is that of prompt i. */
  completeAll(
    prompts: readonly Prompt[],
    options: Omit<GenerateOptions, "n"> = {},
    request: RequestOptions = {},
  ): Promise<Choice[]> {
    return Promise.all(prompts.map((prompt) => this.complete(prompt, options, request)));
  }

  /**
   * How likely the model finds a text: AR log-likelihood per token, or the diffusion bound.
   *
   * @param text text, or ids as they are; one token at least
   * @param request.signal ends it: a waiting score at once, a running one after the current pass
   * @throws EngineError ENGINE_OPTIONS, ENGINE_PROMPT, ENGINE_TOO_LONG, ENGINE_QUEUE_FULL, ENGINE_CLOSED, ENGINE_WORKER;
   *   the signal's reason
   */
  async score(
    text: Prompt,
    options: ScoreOptions = {},
    { signal, reservation, onStart }: ScoreRequestOptions = {},
  ): Promise<ScoreResult> {
    signal?.throwIfAborted();
    const info = this.#supervisor.requireAccepting();
    const settings = parseOptions("score", scoreOptionsSchema, options);
    const tokens = idsOf(text, "text", this.#rules(info));
    checkScore(tokens, settings.mode, info);
    const size = { choices: 1, promptTokens: tokens.length, maxTokens: 0 };
    const place = this.#admission.enter(reservation, size, 0);
    const key = this.#nextKey++;
    let result: ScoreResult | undefined;
    const onScore = (scored: ScoreResult) => {
      result = scored;
    };
    // With a reservation it is the choices that wait, and the score is part of their request.
    const queued = reservation ? 0 : 1;
    const isOwn = !reservation;
    const queue = this.#open(key, 1, { place, isOwn, promptTokens: tokens.length, queued, signal, onScore });
    this.#supervisor.post("score", { key, tokens, settings, arrival: Date.now() });
    // The worker may be in a pass: who gives up does not wait for its word.
    const leave = () => void queue.return();
    signal?.addEventListener("abort", leave, { once: true });
    try {
      for await (const { type } of queue) if (type === "start") onStart?.();
    } finally {
      signal?.removeEventListener("abort", leave);
    }
    if (result) return result;
    signal?.throwIfAborted();
    throw new EngineError("ENGINE_INTERNAL", "the score ended without a result");
  }

  /** What the engine is doing: of this very moment where the model runs here, else a moment ago. */
  stats(): EngineStats {
    const { state, restarts, trouble } = this.#supervisor;
    const core = this.#supervisor.stats();
    const admission = this.#admission.stats();
    return {
      ...core,
      // Requests on their way to the worker wait, too.
      waiting: Math.max(0, this.#requests.unfinished - core.running),
      waitingTokens: admission.waitingTokens,
      admission,
      state,
      ...(trouble !== undefined && { trouble }),
      counters: { ...core.counters, rejected: { ...this.#admission.rejected }, workerRestarts: restarts },
    };
  }

  /**
   * Takes no more requests, lets those it has finish for `drain` seconds (default 0), ends the rest with ENGINE_CLOSED,
   * and frees everything but a model that was given.
   */
  close({ drain = 0 }: { drain?: number } = {}): Promise<void> {
    this.#closing ??= this.#close(drain);
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(drain: number): Promise<void> {
    this.#supervisor.drain();
    if (drain > 0 && this.#requests.size > 0 && this.#supervisor.isRunning) {
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve;
        timer = setTimeout(resolve, drain * 1000);
      });
      clearTimeout(timer);
    }
    await this.#supervisor.close();
    this.#failAll(new EngineError("ENGINE_CLOSED", "the engine was closed before the request was done"));
  }

  #onReports({ reports }: CoreReports): void {
    for (const report of reports) {
      if (report.events.some(({ type }) => type === "done")) this.#supervisor.resetFailures();
      this.#requests.deliver(report);
    }
    this.#rest();
  }

  #abort(key: number): void {
    if (!this.#requests.has(key)) return;
    this.#requests.leaveQueue(key);
    this.#supervisor.post("abort", { key });
  }

  /** Ends a request whose time is over, without waiting for a core that may be in a long pass, or hang. */
  #expire(key: number, error: EngineError): void {
    this.#supervisor.post("abort", { key, error: errorParts(error) });
    this.#requests.fail(key, error);
    this.#rest();
  }

  #failAll(error: EngineError): void {
    this.#requests.failAll(error);
    this.#rest();
  }

  /** With nothing to do the worker keeps no process alive. */
  #rest(): void {
    if (this.#requests.size > 0) return;
    this.#onIdle?.();
    this.#supervisor.unref();
  }
}

/** What a model that is somebody else's cannot be asked for. */
function checkGiven({ worker = "none", quantization }: EngineSettings): void {
  const wrong = (message: string) => new EngineError("ENGINE_OPTIONS", message);
  if (worker !== "none") throw wrong("worker: a loaded model cannot move to another thread, give its folder");
  if (quantization)
    throw wrong(`quantization: ${quantization} would spoil the loaded model for its owner, give its folder`);
}

function tokenizerOf(model: string | StableDiffCoder): Tokenizer | undefined {
  if (typeof model !== "string") return model.hasTokenizer ? model.tokenizer : undefined;
  const folder = stagedFolder(model);
  return existsSync(join(folder, "tokenizer.json")) ? Tokenizer.fromPretrained(folder) : undefined;
}
