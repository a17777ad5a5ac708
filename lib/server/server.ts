import type { AddressInfo } from "node:net";
import { basename, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { FastifyInstance } from "fastify";
import { packageVersion } from "../torch/package-version.js";
import { addHooks, makeApp, page } from "./app.js";
import { hasTokenizer, type ServedEngine, type ServerContext, type ServerState, systemFingerprint } from "./context.js";
import { ApiError, ServerError } from "./errors.js";
import { describeRoutes } from "./openapi.js";
import { ApiKeys } from "./operations/api-keys.js";
import { Connections } from "./operations/connections.js";
import { type LogDestination, LogOutput } from "./operations/log-output.js";
import { EventLoopDelay, Metrics } from "./operations/metrics.js";
import type { RequestScope } from "./operations/request-scope.js";
import { ReloadedTls } from "./operations/tls.js";
import { Uploads } from "./operations/uploads.js";
import { parseServerOptions, type ServerOptions, type ServerSettings } from "./options.js";
import { PromptPool, type SharedPool } from "./prompts/prompt-pool.js";
import { chatRoute } from "./routes/chat.js";
import { completionRoute } from "./routes/completions.js";
import { healthRoutes } from "./routes/health.js";
import { modelRoutes } from "./routes/models.js";
import { tokenRoutes } from "./routes/tokens.js";

export interface CreateServerOptions extends ServerOptions {
  /** Default: standard output, which is never waited for; what it does not take is dropped and counted. */
  logTo?: LogDestination;
  /** Folder of the page; default: the built playground. */
  pageFolder?: string;
}

/** An engine over HTTP. It installs no signal handlers: those are the program's. */
export class Server {
  readonly settings: ServerSettings;
  /** For `inject` in tests and for routes of one's own, before `listen`. */
  readonly app: FastifyInstance;
  readonly #context: ServerContext;
  readonly #state: ServerState = {
    engine: undefined,
    prompts: undefined,
    failed: false,
    fingerprint: "fp_loading",
    draining: false,
  };
  readonly #keys: ApiKeys;
  readonly #tls: ReloadedTls | undefined;
  /** Standard output, if the log goes there. */
  readonly #output: LogOutput | undefined;
  #prompts: SharedPool | undefined;
  readonly #delay = new EventLoopDelay();
  #closing: Promise<void> | undefined;

  private constructor({ logTo, pageFolder, ...options }: CreateServerOptions, modelName: string) {
    const settings = parseServerOptions(options);
    this.settings = settings;
    const version = packageVersion();
    const reloaded = (what: string) => (problem: Error | undefined) => {
      if (problem) this.app.log.error({ err: problem }, `failed to reload ${what}; keeping the previous one`);
      else this.app.log.info(`new ${what} are in use`);
    };
    this.#keys = new ApiKeys({
      keys: settings.apiKeys,
      file: settings.apiKeyFile,
      onReload: reloaded("API keys"),
    });
    try {
      this.#tls = settings.tls && new ReloadedTls(settings.tls, reloaded("TLS files"));
    } catch (error) {
      this.#keys.close();
      throw error;
    }
    const connections = new Connections(settings);
    const uploads = new Uploads(settings.uploadLimit);
    this.#output = logTo ? undefined : new LogOutput(1);
    const log = (logTo ?? this.#output) as LogDestination;
    this.app = makeApp({ settings, tls: this.#tls, logTo: log, connections, uploads });
    const modelNames = settings.servedModelNames.length > 0 ? settings.servedModelNames : [modelName];
    const stats = () => this.#state.engine?.stats();
    this.#context = {
      settings,
      metrics: new Metrics({
        modelName: modelNames[0],
        ...{ stats, open: () => this.open, connections, uploads, delay: this.#delay, version },
        lostLines: () => this.#output?.dropped ?? 0,
      }),
      log: this.app.log,
      version,
      created: Math.floor(Date.now() / 1000),
      modelNames,
      keyNames: new WeakMap(),
      openRequests: new Set<RequestScope>(),
      ignoredNames: new Set(),
      state: this.#state,
    };
    addHooks(this.app, this.#context, this.#keys);
    this.#routes(version, pageFolder);
  }

  /**
   * Makes a server; `listen` opens it.
   *
   * @param engine may still be loading: until it is there requests get 503, and /ready says so; one that fails to load
   *   makes /health say so, too
   * @param modelName what clients call the model unless `servedModelNames` says otherwise; default: its folder's name
   * @throws ServerError SERVER_OPTIONS, SERVER_FILE
   */
  static create(
    engine: ServedEngine | Promise<ServedEngine>,
    options: CreateServerOptions = {},
    modelName?: string,
  ): Server {
    const known = engine instanceof Promise ? undefined : engine;
    const server = new Server(options, modelName ?? (known ? basename(resolve(known.model.name)) : "model"));
    if (known) server.#take(known);
    else {
      Promise.resolve(engine)
        .then((loaded) => server.#take(loaded))
        .catch((error) => {
          server.#state.failed = true;
          server.app.log.error({ err: error }, "the model cannot be served");
        });
    }
    return server;
  }

  /**
   * Begins to listen.
   *
   * @returns the address, as a URL
   * @throws ServerError SERVER_LISTEN
   */
  async listen(): Promise<string> {
    const { host, port } = this.settings;
    try {
      await this.app.listen({ host, port });
    } catch (cause) {
      const message = `cannot listen on ${host}, port ${port}: ${(cause as Error).message}`;
      throw new ServerError("SERVER_LISTEN", message, { cause });
    }
    return this.url;
  }

  get url(): string {
    const { address, port, family } = this.app.server.address() as AddressInfo;
    return `${this.#tls ? "https" : "http"}://${family === "IPv6" ? `[${address}]` : address}:${port}`;
  }

  /** What clients may call the model. */
  get modelNames(): readonly string[] {
    return this.#context.modelNames;
  }

  /** Requests that are not over. */
  get open(): number {
    return this.#context.openRequests.size;
  }

  /** Number of API keys that open the server; 0: it is open to everybody. */
  get keys(): number {
    return this.#keys.count;
  }

  /**
   * Stops: takes no request any more (503, and so does /health), lets those that run end for `drain` seconds, ends the
   * others with an error, and closes the listener. The engine stays the caller's.
   *
   * @param drain default: `shutdownTimeout`
   */
  close({ drain = this.settings.shutdownTimeout }: { drain?: number } = {}): Promise<void> {
    this.#closing ??= this.#close(drain);
    return this.#closing;
  }

  /** Ends a drain that is under way. */
  hurry(): void {
    for (const scope of this.#context.openRequests) {
      scope.end(new ApiError("draining", "the server was stopped before this request was done", { retryAfter: 1 }));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(drain: number): Promise<void> {
    this.#state.draining = true;
    const until = performance.now() + drain * 1000;
    while (this.open > 0 && performance.now() < until) await sleep(20);
    this.hurry();
    while (this.open > 0 && performance.now() < until + 5000) await sleep(5);
    await this.app.close();
    this.#keys.close();
    this.#tls?.close();
    this.#delay.close();
    this.#prompts?.giveBack();
    this.#output?.close();
  }

  #take(engine: ServedEngine): void {
    if (!hasTokenizer(engine)) {
      throw new ServerError("SERVER_OPTIONS", "cannot serve a model without a tokenizer");
    }
    this.#state.fingerprint = systemFingerprint(engine.model, engine.tokenizer.hash, this.#context.version);
    const { dir, hash, options } = engine.tokenizer;
    this.#prompts = PromptPool.shared({ dir, hash, options }, { timeout: this.settings.promptTimeout });
    this.#state.prompts = this.#prompts.pool;
    this.#state.engine = engine;
  }

  #routes(version: string, pageFolder: string | undefined): void {
    const context = this.#context;
    describeRoutes(this.app, version);
    // In a plugin, because the document's plugin sees the routes that are added after it has been loaded.
    this.app.register((app, _options, done) => {
      completionRoute(app, context);
      chatRoute(app, context);
      modelRoutes(app, context);
      tokenRoutes(app, context);
      healthRoutes(app, context);
      app.get("/openapi.json", async () => app.swagger());
      done();
    });
    if (this.settings.page) this.app.register(page, { folder: pageFolder });
  }
}
