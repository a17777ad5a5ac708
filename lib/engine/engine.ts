import { existsSync } from "node:fs";
import { join } from "node:path";
import type { StableDiffCoder } from "../model/index.js";
import { stagedFolder } from "../model/staging.js";
import { Tokenizer } from "../model/tokenizer.js";
import { EngineError } from "./errors.js";
import { EventQueue } from "./event-queue.js";
import { type Host, startProcess, startThread } from "./host.js";
import type { LocalHost } from "./local-host.js";
import {
  type EngineOptions,
  type EngineSettings,
  engineOptionsSchema,
  type GenerateOptions,
  generateOptionsSchema,
  parseEngineOptions,
  type ScoreOptions,
  scoreOptionsSchema,
} from "./options.js";
import { checkRequest, type Prompt, renderPrompt } from "./prompt.js";
import { type CoreMessage, type CoreReply, type CoreStats, errorFromParts, type WireReport } from "./protocol.js";
import type { EngineRequest } from "./request.js";
import type { Choice, EngineEvent, EngineStats, ModelFacts, RequestOptions, ScoreResult, TextEvent } from "./types.js";

/** Options of {@link Engine.create}. */
export type EngineCreateOptions = EngineOptions & {
  /** A checkpoint's folder; or a loaded model, which then runs in this thread and stays its owner's. */
  model: string | StableDiffCoder;
};

interface OpenRequest {
  queue: EventQueue<EngineEvent>;
  /** Choices not done; of those not started the prompt's tokens count as waiting. */
  unfinished: Set<number>;
  notStarted: number;
  promptTokens: number;
  requestId: string;
  release(): void;
}

/** Deaths of the worker in a row, without a finished request between, after which it is not started again. */
const MAX_DEATHS = 5;

/**
 * Decodes many requests at once over one model: continuous batching, paged memory, a prefix cache. The model lives in a
 * worker thread (or process), so that nothing here ever blocks.
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
  readonly #model: string | StableDiffCoder;
  readonly #requests = new Map<number, OpenRequest>();
  readonly #ids = new Set<string>();
  readonly #scores = new Map<number, { resolve(result: ScoreResult): void; reject(error: unknown): void }>();
  #facts: ModelFacts | undefined;
  #host: Host | undefined;
  #local: LocalHost | undefined;
  #state: EngineStats["state"] = "starting";
  #stats: CoreStats | undefined;
  #ready!: Promise<void>;
  #setReady!: { resolve(): void; reject(error: EngineError): void };
  /** Messages for a worker that is not ready yet. */
  #outbox: CoreMessage[] = [];
  #nextKey = 1;
  #unfinished = 0;
  #waitingTokens = 0;
  #deaths = 0;
  #restarts = 0;
  #restartTimer: NodeJS.Timeout | undefined;
  readonly #rejected = { requests: 0, tokens: 0 };
  #onIdle: (() => void) | undefined;
  #closing: Promise<void> | undefined;

  private constructor(model: string | StableDiffCoder, settings: EngineSettings, tokenizer: Tokenizer | undefined) {
    this.#model = model;
    this.settings = settings;
    this.tokenizer = tokenizer;
  }

  /**
   * Loads the model and waits until it is ready.
   *
   * @throws EngineError ENGINE_OPTIONS, ENGINE_MODEL, ENGINE_WORKER; TokenizerError for a broken tokenizer
   */
  static async create(options: EngineCreateOptions): Promise<Engine> {
    const { model, ...rest } = options;
    const settings = parseEngineOptions("Engine.create", engineOptionsSchema, rest);
    const isFolder = typeof model === "string";
    if (!isFolder && settings.thread) {
      throw new EngineError("ENGINE_OPTIONS", "thread: a loaded model cannot move to another thread, give its folder");
    }
    if (!isFolder && settings.weights === "int8") {
      throw new EngineError(
        "ENGINE_OPTIONS",
        "weights: int8 would spoil the loaded model for its owner, give its folder",
      );
    }
    const engine = new Engine(
      model,
      settings,
      isFolder ? tokenizerOf(model) : model.hasTokenizer ? model.tokenizer : undefined,
    );
    engine.#start();
    await engine.#ready;
    return engine;
  }

  /** What is known of the model. */
  get model(): ModelFacts {
    if (!this.#facts) throw new EngineError("ENGINE_CLOSED", "the engine is not ready");
    return this.#facts;
  }

  /** The worker's process id with `thread: "process"`. */
  get workerPid(): number | undefined {
    return this.#host?.pid;
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
    { signal, requestId }: RequestOptions = {},
  ): AsyncIterableIterator<EngineEvent> {
    const { facts } = this.#accepting();
    const parsed = parseEngineOptions("generate", generateOptionsSchema, options);
    const blockSize = parsed.blockSize ?? this.settings.blockSize;
    const ids = renderPrompt(prompt, parsed.suffix, this.tokenizer, this.settings.fimFormat);
    checkRequest(typeof prompt === "string" ? ids : prompt, ids, parsed, facts, this.settings.shift);
    if (typeof prompt !== "string" && parsed.suffix !== undefined) {
      checkRequest(ids, ids, parsed, facts, this.settings.shift);
    }
    for (const id of [...(parsed.stopIds ?? []), ...Object.keys(parsed.logitBias).map(Number)]) {
      if (id >= facts.vocabSize) {
        throw new EngineError("ENGINE_OPTIONS", `token ${id} is outside the vocabulary of ${facts.vocabSize}`);
      }
    }
    this.#checkLimits(parsed.n, ids.length);

    const key = this.#nextKey++;
    const id = requestId ?? `request-${key}`;
    if (this.#ids.has(id)) throw new EngineError("ENGINE_OPTIONS", `requestId "${id}" is in use`);
    const { stopIds, forbidden } = stopsOf(parsed, facts);
    const seed = parsed.seed ?? Math.floor(Math.random() * 2 ** 48);
    const request: EngineRequest = {
      key,
      prompt: ids,
      settings: { ...parsed, seed, blockSize },
      stopIds,
      forbidden,
      arrival: Date.now(),
    };
    const queue = new EventQueue<EngineEvent>(() => this.#abort(key));
    const onAbort = () => this.#abort(key);
    this.#requests.set(key, {
      queue,
      unfinished: new Set(Array.from({ length: parsed.n }, (_, i) => i)),
      notStarted: parsed.n,
      promptTokens: ids.length,
      requestId: id,
      release: () => signal?.removeEventListener("abort", onAbort),
    });
    this.#ids.add(id);
    this.#unfinished += parsed.n;
    this.#waitingTokens += parsed.n * ids.length;
    this.#host?.ref();
    this.#post({ kind: "generate", request });
    if (signal?.aborted) this.#abort(key);
    else signal?.addEventListener("abort", onAbort, { once: true });
    return queue;
  }

  /** Decodes a prompt to its end: `n` choices. */
  async complete(prompt: Prompt, options: GenerateOptions = {}, request: RequestOptions = {}): Promise<Choice[]> {
    const events = this.generate(prompt, { events: "text", ...options }, request);
    const parts = new Map<number, TextEvent[]>();
    const choices: Choice[] = [];
    for await (const event of events) {
      if (event.type === "start") parts.set(event.index, []);
      else if (event.type === "text") parts.get(event.index)?.push(event);
      else if (event.type === "done") {
        const { type: _, ...rest } = event;
        const mine = parts.get(event.index) ?? [];
        choices.push({
          ...rest,
          text: mine.map(({ text }) => text).join(""),
          ids: mine.flatMap(({ ids }) => ids),
          tokens: mine.flatMap(({ tokens }) => tokens),
        });
      }
    }
    return choices.sort((a, b) => a.index - b.index);
  }

  /** Decodes many prompts; they share batches as they fit. Result i holds the choices of prompt i. */
  completeAll(
    prompts: readonly Prompt[],
    options: GenerateOptions = {},
    request: RequestOptions = {},
  ): Promise<Choice[][]> {
    return Promise.all(prompts.map((prompt) => this.complete(prompt, options, { signal: request.signal })));
  }

  /**
   * How likely the model finds a text: AR log-likelihood per token, or the diffusion bound.
   *
   * @param text text, or ids as they are; one token at least
   */
  async score(text: Prompt, options: ScoreOptions = {}): Promise<ScoreResult> {
    const { facts } = this.#accepting();
    const settings = parseEngineOptions("score", scoreOptionsSchema, options);
    const tokens = renderPrompt(text, undefined, this.tokenizer, this.settings.fimFormat);
    if (tokens.length === 0) throw new EngineError("ENGINE_PROMPT", "nothing to score: the text is empty");
    if (tokens.length > facts.maxLength) {
      throw new EngineError("ENGINE_TOO_LONG", `${tokens.length} tokens exceed the ${facts.maxLength} of the model`);
    }
    const wrong = tokens.findIndex((id) => id < 0 || id >= facts.vocabSize);
    if (wrong >= 0) throw new EngineError("ENGINE_PROMPT", `token ${wrong} is ${tokens[wrong]}, out of the vocabulary`);
    const key = this.#nextKey++;
    this.#host?.ref();
    return new Promise((resolve, reject) => {
      this.#scores.set(key, { resolve, reject });
      this.#post({ kind: "score", key, tokens, settings });
    });
  }

  /** What the engine is doing: of this very moment where the model runs here, else a moment ago. */
  stats(): EngineStats {
    const core = this.#local?.core.stats() ?? this.#stats ?? EMPTY_STATS;
    return {
      ...core,
      // Requests on their way to the worker wait, too.
      waiting: Math.max(0, this.#unfinished - core.running),
      waitingTokens: this.#waitingTokens,
      state: this.#state,
      counters: { ...core.counters, rejected: { ...this.#rejected }, workerRestarts: this.#restarts },
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
    if (this.#state !== "dead") this.#state = "draining";
    if (drain > 0 && this.#requests.size > 0 && this.#host) {
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve;
        timer = setTimeout(resolve, drain * 1000);
      });
      clearTimeout(timer);
    }
    clearTimeout(this.#restartTimer);
    this.#state = "closed";
    const host = this.#host;
    if (host) {
      host.ref();
      const closed = new Promise<void>((resolve) => {
        this.#onClosed = resolve;
      });
      host.post({ kind: "close" });
      // A worker that is loading, or stuck in a pass, is not waited for.
      const timer = setTimeout(() => this.#onClosed?.(), 5000);
      await closed;
      clearTimeout(timer);
      await host.kill();
    }
    this.#host = undefined;
    this.#local = undefined;
    this.#failAll(new EngineError("ENGINE_CLOSED", "the engine was closed before the request was done"));
  }

  #onClosed: (() => void) | undefined;

  #accepting(): { facts: ModelFacts } {
    if (this.#state === "dead") {
      throw new EngineError(
        "ENGINE_WORKER",
        `the engine's worker died ${MAX_DEATHS} times in a row and is not restarted`,
      );
    }
    if (this.#state === "draining" || this.#state === "closed" || !this.#facts) {
      throw new EngineError("ENGINE_CLOSED", `the engine is ${this.#state}`);
    }
    return { facts: this.#facts };
  }

  #checkLimits(n: number, promptTokens: number): void {
    const { maxQueue, maxQueueTokens } = this.settings;
    if (this.#unfinished + n > maxQueue) {
      this.#rejected.requests++;
      throw new EngineError("ENGINE_QUEUE_FULL", `${this.#unfinished} choices wait or run, ${maxQueue} may`, {
        details: { limit: "requests", used: this.#unfinished, allowed: maxQueue },
      });
    }
    // A request that is too large for the limit by itself may still go when nothing waits.
    if (this.#waitingTokens > 0 && this.#waitingTokens + n * promptTokens > maxQueueTokens) {
      this.#rejected.tokens++;
      throw new EngineError("ENGINE_QUEUE_FULL", `${this.#waitingTokens} prompt tokens wait, ${maxQueueTokens} may`, {
        details: { limit: "tokens", used: this.#waitingTokens, allowed: maxQueueTokens },
      });
    }
  }

  #start(): void {
    this.#ready = new Promise((resolve, reject) => {
      this.#setReady = { resolve, reject };
    });
    this.#ready.catch(() => {});
    if (this.settings.thread === false || typeof this.#model !== "string") {
      void this.#startHere();
      return;
    }
    const handlers = {
      onReply: (reply: CoreReply) => {
        if (this.#host === host) this.#hear(reply);
      },
      onExit: (reason: string) => {
        if (this.#host === host) this.#lose(reason);
      },
    };
    const host: Host = this.settings.thread === "process" ? startProcess(handlers) : startThread(handlers);
    this.#host = host;
    host.post({ kind: "load", model: this.#model, settings: this.settings });
  }

  async #startHere(): Promise<void> {
    try {
      const { LocalHost } = await import("./local-host.js");
      const { loadModel } = await import("./load.js");
      const coder = typeof this.#model === "string" ? await loadModel(this.#model, this.settings) : this.#model;
      this.#local = new LocalHost(coder, this.settings, (reply) => this.#hear(reply), coder !== this.#model);
      this.#host = this.#local;
      this.#hear({ kind: "ready", facts: this.#local.core.facts, stats: this.#local.core.stats() });
    } catch (error) {
      this.#state = "dead";
      this.#setReady.reject(
        error instanceof EngineError
          ? error
          : new EngineError("ENGINE_MODEL", error instanceof Error ? error.message : String(error), { cause: error }),
      );
    }
  }

  #post(message: CoreMessage): void {
    if (this.#state === "starting" || !this.#host) this.#outbox.push(message);
    else this.#host.post(message);
  }

  #hear(reply: CoreReply): void {
    switch (reply.kind) {
      case "ready":
        this.#facts = reply.facts;
        this.#stats = reply.stats;
        if (this.#state === "starting") this.#state = "ready";
        for (const message of this.#outbox.splice(0)) this.#host?.post(message);
        this.#setReady.resolve();
        this.#unrefIfIdle();
        return;
      case "failed":
        this.#loadFailed(errorFromParts(reply.error));
        return;
      case "reports":
        if (reply.stats) this.#stats = reply.stats;
        for (const report of reply.reports) this.#deliver(report);
        return;
      case "stats":
        this.#stats = reply.stats;
        return;
      case "score": {
        const waiting = this.#scores.get(reply.key);
        this.#scores.delete(reply.key);
        if (reply.result) waiting?.resolve(reply.result);
        else waiting?.reject(errorFromParts(reply.error ?? { code: "ENGINE_INTERNAL", message: "no result" }));
        this.#unrefIfIdle();
        return;
      }
      case "closed":
        this.#onClosed?.();
    }
  }

  #deliver({ key, events, error, last }: WireReport): void {
    const request = this.#requests.get(key);
    if (!request) return;
    for (const event of events) {
      if (event.type === "start") {
        request.notStarted--;
        this.#waitingTokens -= request.promptTokens;
      } else if (event.type === "done") {
        request.unfinished.delete(event.index);
        this.#unfinished--;
        this.#deaths = 0;
      }
      request.queue.push(event);
    }
    if (last) this.#end(key, error && errorFromParts(error));
  }

  #end(key: number, error?: EngineError): void {
    const request = this.#requests.get(key);
    if (!request) return;
    this.#requests.delete(key);
    this.#ids.delete(request.requestId);
    this.#unfinished -= request.unfinished.size;
    this.#waitingTokens -= request.notStarted * request.promptTokens;
    request.release();
    request.queue.end(error);
    this.#unrefIfIdle();
    if (this.#requests.size === 0) this.#onIdle?.();
  }

  #unrefIfIdle(): void {
    if (this.#requests.size === 0 && this.#scores.size === 0) this.#host?.unref();
  }

  #abort(key: number): void {
    if (this.#requests.has(key)) this.#post({ kind: "abort", key });
  }

  #lose(reason: string): void {
    if (this.#state === "closed") {
      this.#onClosed?.();
      return;
    }
    this.#host = undefined;
    const error = new EngineError("ENGINE_WORKER", `the engine's worker died: ${reason}`);
    const wasLoading = this.#state === "starting" && !this.#facts;
    if (this.#state === "ready") this.#state = "starting";
    this.#outbox = [];
    this.#failAll(error);
    if (wasLoading) {
      this.#state = "dead";
      this.#setReady.reject(error);
      return;
    }
    this.#again(error);
  }

  #loadFailed(error: EngineError): void {
    const host = this.#host;
    this.#host = undefined;
    void host?.kill();
    if (!this.#facts) {
      this.#state = "dead";
      this.#setReady.reject(error);
      return;
    }
    this.#again(error);
  }

  /** Starts the worker again: at once, then after longer and longer rests, and at last not any more. */
  #again(error: EngineError): void {
    if (this.#state === "draining" || this.#state === "closed") return;
    if (++this.#deaths > MAX_DEATHS) {
      this.#state = "dead";
      this.#setReady.reject(error);
      this.#failAll(error);
      return;
    }
    this.#restarts++;
    const rest = this.#deaths === 1 ? 0 : 250 * 2 ** this.#deaths;
    this.#restartTimer = setTimeout(() => {
      if (this.#state === "starting") this.#start();
    }, rest);
  }

  #failAll(error: EngineError): void {
    for (const [key, { queue, unfinished, promptTokens }] of [...this.#requests]) {
      for (const index of unfinished) {
        queue.push({
          type: "done",
          index,
          finishReason: "error",
          usage: { promptTokens, cachedTokens: 0, completionTokens: 0, forwards: 0, denoisingSteps: 0 },
          timings: { queue: 0, firstBlock: 0, total: 0 },
        });
      }
      this.#end(key, error);
    }
    for (const { reject } of this.#scores.values()) reject(error);
    this.#scores.clear();
  }
}

/** What ends a text, and what may never be chosen. */
function stopsOf(
  { stopIds, ignoreEos, canvas, edit }: { stopIds?: number[]; ignoreEos: boolean; canvas: string; edit?: unknown },
  { eosIds }: ModelFacts,
): { stopIds: number[]; forbidden: number[] } {
  const stops = stopIds ?? (ignoreEos ? [] : eosIds);
  const isFixed = canvas === "fixed" || edit !== undefined;
  return isFixed
    ? { stopIds: [], forbidden: [...new Set([...eosIds, ...(stopIds ?? [])])] }
    : { stopIds: stops, forbidden: [] };
}

function tokenizerOf(path: string): Tokenizer | undefined {
  const folder = stagedFolder(path);
  return existsSync(join(folder, "tokenizer.json")) ? Tokenizer.fromPretrained(folder) : undefined;
}

const EMPTY_STATS: CoreStats = {
  running: 0,
  waiting: 0,
  waitingTokens: 0,
  cacheUsage: 0,
  pages: { total: 0, used: 0, cached: 0, free: 0, pageSize: 0 },
  counters: {
    requests: 0,
    finished: { stop: 0, length: 0, abort: 0, error: 0 },
    rejected: { requests: 0, tokens: 0 },
    promptTokens: 0,
    completionTokens: 0,
    prefixCacheQueries: 0,
    prefixCacheHits: 0,
    preemptions: 0,
    forwards: 0,
    forwardTokens: 0,
    denoisingSteps: 0,
    committedTokens: 0,
    remaskedTokens: 0,
    blocks: 0,
    workerRestarts: 0,
  },
  seconds: { model: 0, other: 0 },
  memory: { tensors: 0, bytes: 0 },
};
