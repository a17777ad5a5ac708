import type { StableDiffCoder } from "../checkpoint/index.js";
import { WorkerEnded } from "../worker/index.js";
import { EngineError } from "./errors.js";
import { type Host, startCore } from "./host.js";
import type { EngineSettings } from "./options.js";
import type { CoreHandlers, CoreReports } from "./protocol.js";
import { type CoreStats, type EngineStats, type ModelInfo, zeroStats } from "./types.js";
import { Watchdog } from "./watchdog.js";

/** Deaths of the core in a row, without a finished choice between, after which it is not restarted. */
const MAX_DEATHS = 5;

/** Seconds that close() waits for a core which is loading, or in a long pass. */
const CLOSE_SECONDS = 5;

/** Receives the reports of a core, and its death, which ends all of its requests. */
export interface CoreListener {
  onReports(reports: CoreReports): void;
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
  /** Requests for a core that is not ready yet. */
  #outbox: ((host: Host) => void)[] = [];
  #firstStart: { resolve(): void; reject(error: EngineError): void } | undefined;
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
    return this.#host?.client.pid;
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

  /** Sends a request to the core, or as soon as it is ready. */
  post<K extends "generate" | "abort" | "score">(kind: K, argument: Parameters<CoreHandlers[K]>[0]): void {
    const send = ({ client }: Host) => client.post(kind, argument as never);
    if (this.#state === "starting" || !this.#host) this.#outbox.push(send);
    else send(this.#host);
  }

  /** Makes the core keep this process alive. */
  ref(): void {
    this.#host?.client.ref();
  }

  /** Lets this process end although the core runs. */
  unref(): void {
    if (this.#state !== "closed") this.#host?.client.unref(); // close() waits for its end
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
    const client = this.#host?.client;
    if (!client) return;
    client.ref();
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      timer = setTimeout(resolve, CLOSE_SECONDS * 1000);
      client.call("close", undefined).then(resolve, () => resolve()); // it rejects if the core ends by itself
    });
    clearTimeout(timer);
    await client.kill();
    this.#host = undefined;
  }

  #launch(): void {
    this.#hung = undefined;
    this.#watchdog?.stop();
    const host = startCore(this.#model, this.#settings.worker, {
      onEvent: (reports) => {
        if (this.#host === host) this.#onReports(reports);
      },
      onEnd: (error) => {
        if (this.#host !== host) return;
        this.#lose(this.#hung ?? (error instanceof WorkerEnded ? error.reason : error.message));
      },
      onPulse: (turns) => {
        if (this.#host === host) this.#watchdog?.beat(turns);
      },
    });
    this.#host = host;
    const { client } = host;
    client.ref(); // until the model is loaded
    // Only a process can be killed from outside when it hangs.
    this.#watchdog =
      client.pid === undefined ? undefined : new Watchdog(this.#settings, (reason) => this.#killHung(reason));
    const model = typeof this.#model === "string" ? this.#model : "";
    client.call("load", { model, settings: this.#settings }).then(
      ({ info, stats }) => {
        if (this.#host === host) this.#onReady(info, stats);
      },
      (error) => {
        if (this.#host !== host || client.failure) return; // onEnd reports the end
        this.#host = undefined;
        void client.kill();
        this.#loadFailed(error);
      },
    );
  }

  /** Kills a core that hangs. */
  #killHung(reason: string): void {
    this.#hung = `${reason}, and was ended`;
    const host = this.#host;
    void host?.client.kill().then(() => {
      if (this.#host === host) this.#lose(this.#hung as string);
    });
  }

  #onReady(info: ModelInfo, stats: CoreStats): void {
    this.#info = info;
    this.#stats = stats;
    this.#watchdog?.ready();
    if (this.#state === "starting") this.#state = "ready";
    if (this.#outbox.length === 0) this.unref();
    for (const send of this.#outbox.splice(0)) send(this.#host as Host);
    this.#firstStart?.resolve();
  }

  #onReports(reports: CoreReports): void {
    if (reports.stats) this.#stats = reports.stats;
    this.#listener.onReports(reports);
  }

  /** The core died, and its requests are lost. */
  #lose(reason: string): void {
    this.#watchdog?.stop();
    if (this.#state === "closed") return;
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
