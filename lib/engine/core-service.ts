import type { StableDiffCoder } from "../checkpoint/index.js";
import type { WorkerContext } from "../worker/index.js";
import { EngineCore } from "./core.js";
import { EngineError } from "./errors.js";
import { type LoadedModel, loadModel } from "./load.js";
import type { EngineSettings } from "./options.js";
import { type CoreHandlers, type CoreReports, errorFromParts, errorParts } from "./protocol.js";
import type { CoreStats } from "./types.js";

const STATS_EVERY = 200; // ms

/** Handles requests to a core: the same in the engine's own thread, in a worker thread and in a child process. */
export class CoreService {
  readonly #context: WorkerContext<CoreReports>;
  readonly #given: StableDiffCoder | undefined;
  #core: EngineCore | undefined;
  #loaded: LoadedModel | undefined;
  #statsAt = 0;

  /** @param given a loaded model, which is not freed; without it the request "load" loads one */
  constructor(context: WorkerContext<CoreReports>, given?: StableDiffCoder) {
    this.#context = context;
    this.#given = given;
  }

  /** Current stats; undefined before the model is loaded. */
  stats(): CoreStats | undefined {
    return this.#core?.stats();
  }

  readonly handlers: CoreHandlers = {
    load: ({ model, settings }) => this.#load(model, settings),
    generate: (request) => this.#core?.generate(request),
    abort: ({ key, error }) => this.#core?.abort(key, error && errorFromParts(error)),
    score: (request) => this.#core?.score(request),
    close: async () => {
      await this.#core?.close();
      this.#loaded?.dispose();
      this.#context.stop();
    },
  };

  async #load(model: string, settings: EngineSettings): Promise<{ info: EngineCore["info"]; stats: CoreStats }> {
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
        this.#context.emit({ reports: wired, ...(isDue && { stats: core.stats() }) });
      });
      this.#core = core;
      return { info: core.info, stats: core.stats() };
    } catch (error) {
      this.#loaded?.dispose();
      this.#loaded = undefined;
      const { code, message, details } = errorParts(error, "ENGINE_MODEL");
      throw new EngineError(code, message, { details, cause: error });
    }
  }
}
