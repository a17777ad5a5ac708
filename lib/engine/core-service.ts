import type { StableDiffCoder } from "../checkpoint/index.js";
import { EngineCore } from "./core.js";
import { type LoadedModel, loadModel } from "./load.js";
import { type CoreMessage, type CoreReply, errorFromParts, errorParts } from "./protocol.js";
import type { CoreStats } from "./types.js";

const STATS_EVERY = 200; // ms

/** Handles messages to a core: the same in the engine's own thread, in a worker thread and in a child process. */
export class CoreService {
  readonly #send: (reply: CoreReply) => void;
  readonly #given: StableDiffCoder | undefined;
  #core: EngineCore | undefined;
  #loaded: LoadedModel | undefined;
  #statsAt = 0;

  /** @param given a loaded model, which is not freed; without it the message "load" loads one */
  constructor(send: (reply: CoreReply) => void, given?: StableDiffCoder) {
    this.#send = send;
    this.#given = given;
  }

  /** Current stats; undefined before the model is loaded. */
  stats(): CoreStats | undefined {
    return this.#core?.stats();
  }

  async handle(message: CoreMessage): Promise<void> {
    switch (message.kind) {
      case "load":
        await this.#load(message);
        return;
      case "generate":
        this.#core?.generate(message.request);
        return;
      case "abort":
        this.#core?.abort(message.key, message.error && errorFromParts(message.error));
        return;
      case "score":
        this.#core?.score(message.request);
        return;
      case "close":
        await this.#core?.close();
        this.#loaded?.dispose();
        this.#send({ kind: "closed" });
    }
  }

  async #load({ model, settings }: Extract<CoreMessage, { kind: "load" }>): Promise<void> {
    try {
      if (!this.#given) this.#loaded = await loadModel(model, settings);
      const coder = this.#given ?? (this.#loaded as LoadedModel).coder;
      // In the engine's own thread a report is a call, which costs nothing.
      const isHere = this.#given !== undefined || settings.worker === "none";
      const eventInterval = isHere ? 0 : settings.eventInterval;
      const core = new EngineCore(coder, { ...settings, eventInterval }, (reports) => {
        const now = performance.now();
        const isDue = now - this.#statsAt > STATS_EVERY || reports.some(({ last }) => last);
        if (isDue) this.#statsAt = now;
        const wired = reports.map(({ error, ...rest }) => ({ ...rest, ...(error && { error: errorParts(error) }) }));
        this.#send({ kind: "reports", reports: wired, ...(isDue && { stats: core.stats() }) });
      });
      this.#core = core;
      this.#send({ kind: "ready", info: core.info, stats: core.stats() });
    } catch (error) {
      this.#loaded?.dispose();
      this.#loaded = undefined;
      this.#send({ kind: "failed", error: errorParts(error, "ENGINE_MODEL") });
    }
  }
}
