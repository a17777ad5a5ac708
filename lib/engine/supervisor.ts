import type { StableDiffCoder } from "../checkpoint/index.js";
import { EngineError } from "./errors.js";
import { type Host, type HostHandlers, startHere, startProcess, startWorkerThread } from "./host.js";
import type { EngineSettings } from "./options.js";
import { type CoreMessage, type CoreReply, errorFromParts } from "./protocol.js";
import type { EngineStats, ModelInfo } from "./types.js";
import { type CoreStats, zeroStats } from "./types.js";
import { Watchdog } from "./watchdog.js";

/** Deaths of the core in a row, without a finished choice between, after which it is not restarted. */
const MAX_DEATHS = 5;

/** Seconds that close() waits for a core which is loading, or in a long pass. */
const CLOSE_SECONDS = 5;

/** Receives the reports of a core, and its death, which ends all of its requests. */
export interface CoreListener {
  onReply(reply: Extract<CoreReply, { kind: "reports" }>): void;
  onLost(error: EngineError): void;
}

/** Keeps a core running: starts it, restarts it when it dies, and ends it. */
export class Supervisor {
  readonly #model: string | StableDiffCoder;
  readonly #settings: EngineSettings;
  readonly #listener: CoreListener;
  #host: Host | undefined;
  #state: EngineStats["state"] = "starting";
  #info: ModelInfo | undefined;
  #stats = zeroStats();
  /** Messages for a core that is not ready yet. */
  #outbox: CoreMessage[] = [];
  #firstStart: { resolve(): void; reject(error: EngineError): void } | undefined;
  #onClosed: (() => void) | undefined;
  #deaths = 0;
  #restarts = 0;
  #restartTimer: NodeJS.Timeout | undefined;
  #watchdog: Watchdog | undefined;
  /** Why the supervisor killed the core, and how the last core ended. */
  #hung: string | undefined;
  #lastEnd: string | undefined;

  constructor(model: string | StableDiffCoder, settings: EngineSettings, listener: CoreListener) {
    this.#model = model;
    this.#settings = settings;
    this.#listener = listener;
  }

  get state(): EngineStats["state"] {
    return this.#state;
  }

  /** Information about the model, once it was loaded. */
  get info(): ModelInfo | undefined {
    return this.#info;
  }

  get restarts(): number {
    return this.#restarts;
  }

  /** See {@link EngineStats.trouble}. */
  get trouble(): string | undefined {
    if (this.#state === "starting" && this.#lastEnd !== undefined) return `${this.#lastEnd}; it is started again`;
    const silence = this.#watchdog?.silence ?? 0;
    return silence > 0 ? `the engine's process has given no sign of life for ${Math.round(silence)} s` : undefined;
  }

  get pid(): number | undefined {
    return this.#host?.pid;
  }

  get isRunning(): boolean {
    return this.#host !== undefined;
  }

  /** Current where the core runs in this thread; otherwise as of its last report. */
  stats(): CoreStats {
    return this.#host?.stats?.() ?? this.#stats;
  }

  /** @throws EngineError ENGINE_CLOSED, or ENGINE_WORKER when it died too often */
  requireAccepting(): ModelInfo {
    if (this.#state === "dead") {
      const message = `the engine's worker died ${MAX_DEATHS} times in a row and is not restarted`;
      throw new EngineError("ENGINE_WORKER", message);
    }
    if (this.#state === "draining" || this.#state === "closed" || !this.#info) {
      throw new EngineError("ENGINE_CLOSED", `the engine is ${this.#state}`);
    }
    return this.#info;
  }

  /**
   * Starts the core, and waits until its model is loaded.
   *
   * @throws EngineError ENGINE_MODEL, ENGINE_WORKER
   */
  async start(): Promise<void> {
    const ready = new Promise<void>((resolve, reject) => {
      this.#firstStart = { resolve, reject };
    });
    this.#launch();
    await ready;
  }

  post(message: CoreMessage): void {
    if (this.#state === "starting" || !this.#host) this.#outbox.push(message);
    else this.#host.post(message);
  }

  /** Makes the core keep this process alive. */
  ref(): void {
    this.#host?.ref();
  }

  /** Lets this process end although the core runs. */
  unref(): void {
    if (this.#state !== "closed") this.#host?.unref(); // close() waits for its end
  }

  /** Forgets earlier deaths: a choice was finished, so the model was not their cause. */
  resetFailures(): void {
    this.#deaths = 0;
  }

  /** Stops accepting requests, and does not restart the core. */
  drain(): void {
    if (this.#state !== "dead") this.#state = "draining";
  }

  async close(): Promise<void> {
    clearTimeout(this.#restartTimer);
    this.#watchdog?.stop();
    this.#state = "closed";
    const host = this.#host;
    if (!host) return;
    host.ref();
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      this.#onClosed = resolve;
      timer = setTimeout(resolve, CLOSE_SECONDS * 1000);
      host.post({ kind: "close" });
    });
    clearTimeout(timer);
    await host.kill();
    this.#host = undefined;
  }

  #launch(): void {
    const handlers = {
      onReply: (reply: CoreReply) => {
        if (this.#host === host) this.#onReply(reply);
      },
      onExit: (reason: string) => {
        if (this.#host === host) this.#lose(this.#hung ?? reason);
      },
      onPulse: (turns: number) => {
        if (this.#host === host) this.#watchdog?.beat(turns);
      },
    };
    const host = this.#hostFor(handlers);
    this.#host = host;
    this.#hung = undefined;
    this.#watchdog?.stop();
    // Only a process can be killed from outside when it hangs.
    this.#watchdog = host.pid === undefined ? undefined : new Watchdog(this.#settings, (reason) => this.#end(reason));
    const folder = typeof this.#model === "string" ? this.#model : "";
    host.post({ kind: "load", model: folder, settings: this.#settings });
  }

  /** Kills a core that hangs. Its host then reports the exit. */
  #end(reason: string): void {
    this.#hung = `${reason}, and was ended`;
    void this.#host?.kill();
  }

  #hostFor(handlers: HostHandlers): Host {
    if (typeof this.#model !== "string") return startHere(handlers, this.#model);
    if (this.#settings.worker === "none") return startHere(handlers);
    return this.#settings.worker === "process" ? startProcess(handlers) : startWorkerThread(handlers);
  }

  #onReply(reply: CoreReply): void {
    switch (reply.kind) {
      case "ready":
        this.#info = reply.info;
        this.#stats = reply.stats;
        this.#watchdog?.ready();
        if (this.#state === "starting") this.#state = "ready";
        if (this.#outbox.length === 0) this.unref();
        for (const message of this.#outbox.splice(0)) this.#host?.post(message);
        this.#firstStart?.resolve();
        return;
      case "failed":
        void this.#host?.kill();
        this.#host = undefined;
        this.#loadFailed(errorFromParts(reply.error));
        return;
      case "closed":
        this.#onClosed?.();
        return;
      case "reports":
        if (reply.stats) this.#stats = reply.stats;
        this.#listener.onReply(reply);
    }
  }

  /** The core died, and its requests are lost. */
  #lose(reason: string): void {
    this.#watchdog?.stop();
    if (this.#state === "closed") {
      this.#onClosed?.();
      return;
    }
    const error = new EngineError("ENGINE_WORKER", `the engine's worker died: ${reason}`);
    this.#lastEnd = error.message;
    this.#host = undefined;
    if (this.#state === "ready") this.#state = "starting";
    this.#dropAll(error);
    this.#loadFailed(error);
  }

  /** Restarts a core that has ever run. New requests wait for it. */
  #loadFailed(error: EngineError): void {
    if (!this.#info) {
      this.#state = "dead";
      this.#firstStart?.reject(error);
    } else if (this.#state === "starting") this.#restart(error);
  }

  /** Restarts the core: at once, then after increasing delays, and not after MAX_DEATHS. */
  #restart(error: EngineError): void {
    if (++this.#deaths > MAX_DEATHS) {
      this.#state = "dead";
      this.#dropAll(error);
      return;
    }
    this.#restarts++;
    const delay = this.#deaths === 1 ? 0 : 250 * 2 ** this.#deaths;
    this.#restartTimer = setTimeout(() => {
      if (this.#state === "starting") this.#launch();
    }, delay);
  }

  #dropAll(error: EngineError): void {
    this.#outbox = [];
    this.#listener.onLost(error);
  }
}
