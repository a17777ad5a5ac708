import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { STATUS_CODES } from "node:http";
import type { Server as HttpsServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import { basename, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import cors from "@fastify/cors";
import fastify, {
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyServerOptions,
  LogController,
} from "fastify";
import { ApiError } from "./api-error.js";
import type { ServerContext, ServerState } from "./context.js";
import { toApiError } from "./engine-error.js";
import { ServerError } from "./errors.js";
import { systemFingerprint } from "./fingerprint.js";
import { openApiDocument } from "./openapi.js";
import { logResponses, noteFailure } from "./operations/access-log.js";
import { Admission } from "./operations/admission.js";
import { ApiKeys } from "./operations/api-keys.js";
import { parseBody } from "./operations/body.js";
import { EventLoopDelay } from "./operations/event-loop-delay.js";
import { ClientGone, type Lifetime } from "./operations/lifetime.js";
import { Metrics } from "./operations/metrics.js";
import { ReloadedTls } from "./operations/tls.js";
import { isLoopback, parseServerOptions, type ServerOptions, type ServerSettings } from "./options.js";
import { pageRoutes } from "./page.js";
import { chatRoute } from "./routes/chat.js";
import { completionRoute } from "./routes/completions.js";
import { healthRoutes } from "./routes/health.js";
import { modelRoutes } from "./routes/models.js";
import { tokenRoutes } from "./routes/tokens.js";
import { hasTokenizer, type ServedEngine } from "./served-engine.js";

const REQUEST_ID = /^[\w.:-]{1,128}$/;

/** Where the server writes its log: lines of JSON. */
export interface LogDestination {
  write(line: string): void;
}

export interface CreateServerOptions extends ServerOptions {
  /** Default: standard output. */
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
  readonly #state: ServerState = { engine: undefined, fingerprint: "fp_loading", draining: false };
  readonly #keys: ApiKeys;
  readonly #tls: ReloadedTls | undefined;
  readonly #delay = new EventLoopDelay();
  #closing: Promise<void> | undefined;

  private constructor({ logTo, pageFolder, ...options }: CreateServerOptions, modelName: string) {
    const settings = parseServerOptions(options);
    this.settings = settings;
    const version = packageVersion();
    const reloaded = (what: string) => (problem: Error | undefined) => {
      if (problem) this.app.log.error({ err: problem }, `the new ${what} cannot be used; the old stay`);
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
    this.app = fastify(fastifyOptions(settings, this.#tls, logTo));
    if (this.#tls) this.#tls.attach(this.app.server as unknown as HttpsServer);
    const admission = new Admission(settings);
    const modelNames = settings.modelNames.length > 0 ? settings.modelNames : [modelName];
    const stats = () => this.#state.engine?.stats();
    this.#context = {
      settings,
      admission,
      metrics: new Metrics({ modelName: modelNames[0], stats, admission, delay: this.#delay, version }),
      log: this.app.log,
      version,
      created: Math.floor(Date.now() / 1000),
      modelNames,
      lifetimes: new Set<Lifetime>(),
      state: this.#state,
    };
    this.#hooks();
    this.#routes(version, pageFolder);
  }

  /**
   * Makes a server; `listen` opens it.
   *
   * @param engine may still be loading: until it is there requests get 503, and /ready says so
   * @param modelName what clients call the model unless `modelNames` says otherwise; default: its folder's name
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
        .catch((error) => server.app.log.error({ err: error }, "the model cannot be served"));
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
    return this.#context.admission.open;
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
    for (const lifetime of this.#context.lifetimes) {
      lifetime.end(new ApiError("draining", "the server was stopped before this request was done", { retryAfter: 1 }));
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
  }

  #take(engine: ServedEngine): void {
    if (!hasTokenizer(engine)) {
      throw new ServerError("SERVER_OPTIONS", "a model without a tokenizer cannot be served: it has no words");
    }
    this.#state.fingerprint = systemFingerprint(engine.model, engine.tokenizer.hash, this.#context.version);
    this.#state.engine = engine;
  }

  #hooks(): void {
    const { app, settings } = this;
    const open = !this.#keys.required && !settings.insecure;
    logResponses(app, this.#context.metrics);
    app.addHook("onRequest", async (request, reply) => {
      reply.header("x-request-id", request.id);
      if (this.#state.draining) reply.header("connection", "close");
    });
    if (settings.corsOrigins.length > 0) {
      app.register(cors, {
        origin: settings.corsOrigins.includes("*") ? "*" : settings.corsOrigins,
        methods: ["GET", "POST"],
        exposedHeaders: ["x-request-id", "x-ignored-parameters", "retry-after"],
        maxAge: 600,
      });
    }
    app.addHook("onRequest", async (request) => {
      // A page whose name was made to point at this machine (DNS rebinding) would otherwise count as our own.
      if (open && !isLoopback(hostName(request.headers.host))) {
        throw new ApiError("bad_request", "without API keys the server answers to localhost only: see the Host header");
      }
      if ((request.routeOptions.config as { public?: boolean }).public) return;
      this.#keys.check(request.headers);
    });
    app.removeAllContentTypeParsers();
    app.addContentTypeParser(/^application\/(\w+\+)?json\b/i, { parseAs: "buffer" }, (_, body, done) => {
      try {
        done(null, parseBody(body as Buffer));
      } catch (error) {
        done(error as Error);
      }
    });
    const retryAfter = () => this.#context.admission.retryAfter();
    app.setErrorHandler((error: FastifyError, request, reply) => {
      noteFailure(request, error instanceof ClientGone ? error : fromFastify(error, settings, retryAfter));
      if (error instanceof ClientGone) {
        reply.hijack();
        reply.raw.destroy();
        return reply;
      }
      const told = fromFastify(error, settings, retryAfter);
      if (told.retryAfter !== undefined) reply.header("retry-after", String(told.retryAfter));
      if (told.status === 401) reply.header("www-authenticate", "Bearer");
      return reply.code(told.status).send(told.toBody());
    });
    app.setNotFoundHandler((request, reply) => {
      const path = request.url.split("?")[0];
      const methods = (["GET", "POST"] as const).filter((method) => app.hasRoute({ method, url: path }));
      if (methods.length > 0) {
        reply.header("allow", methods.join(", "));
        throw new ApiError("method_not_allowed", `${path} answers to ${methods.join(" and ")} only`);
      }
      throw new ApiError("not_found", `there is nothing at ${path.slice(0, 256)}; /openapi.json says what there is`);
    });
  }

  #routes(version: string, pageFolder: string | undefined): void {
    const { app } = this;
    const context = this.#context;
    completionRoute(app, context);
    chatRoute(app, context);
    modelRoutes(app, context);
    tokenRoutes(app, context);
    healthRoutes(app, context);
    const document = openApiDocument(version);
    app.get("/openapi.json", async () => document);
    if (this.settings.page) pageRoutes(app, pageFolder);
  }
}

function fastifyOptions(
  settings: ServerSettings,
  tls: ReloadedTls | undefined,
  logTo: LogDestination | undefined,
): FastifyServerOptions {
  const options: FastifyServerOptions & { https?: object; http?: object } = {
    bodyLimit: settings.bodyLimit,
    requestTimeout: settings.uploadTimeout * 1000,
    return503OnClosing: true,
    forceCloseConnections: true,
    logController: new LogController({ disableRequestLogging: true }),
    exposeHeadRoutes: true,
    genReqId: ({ headers }) => {
      const given = headers["x-request-id"];
      return typeof given === "string" && REQUEST_ID.test(given) ? given : randomUUID();
    },
    routerOptions: { maxParamLength: 512 },
    logger: {
      level: settings.logLevel,
      base: undefined,
      messageKey: "message",
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label }) },
      ...(logTo && { stream: logTo }),
    },
    frameworkErrors: (error, _request, reply) => {
      const told = new ApiError("bad_request", error.message);
      void (reply as FastifyReply).code(told.status).send(told.toBody());
    },
    clientErrorHandler: refuseBrokenHttp,
  };
  const http = {
    maxHeaderSize: settings.headerLimit,
    connectionsCheckingInterval: 1000,
    // Node takes the greater of both as the limit of the whole request, so this one must not be the greater.
    ...(settings.uploadTimeout > 0 && { headersTimeout: Math.min(60, settings.uploadTimeout) * 1000 }),
  };
  if (tls) options.https = { ...http, ...tls.context };
  else options.http = http;
  return options;
}

/** What is no HTTP, or too slow, never becomes a request; it is answered here, on the socket. */
function refuseBrokenHttp(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === "ECONNRESET" || socket.destroyed || !socket.writable) {
    socket.destroy();
    return;
  }
  const told =
    error.code === "HPE_HEADER_OVERFLOW"
      ? new ApiError("headers_too_large", "the headers are too large")
      : error.code === "ERR_HTTP_REQUEST_TIMEOUT"
        ? new ApiError("request_too_slow", "the request did not arrive in time")
        : new ApiError("bad_request", "this is not HTTP");
  const body = JSON.stringify(told.toBody());
  socket.end(
    `HTTP/1.1 ${told.status} ${STATUS_CODES[told.status]}\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}

function fromFastify(error: FastifyError, settings: ServerSettings, retryAfter: () => number): ApiError {
  switch (error.code) {
    case "FST_ERR_CTP_BODY_TOO_LARGE":
      return new ApiError("body_too_large", `the body is larger than ${settings.bodyLimit} bytes`, { cause: error });
    case "FST_ERR_CTP_INVALID_MEDIA_TYPE":
      return new ApiError("unsupported_media_type", "the body must be JSON: Content-Type: application/json", {
        cause: error,
      });
  }
  if (typeof error.statusCode === "number" && error.statusCode >= 400 && error.statusCode < 500) {
    return new ApiError("bad_request", error.message, { cause: error });
  }
  return toApiError(error, retryAfter);
}

/** Of a Host header: the name without the port. */
function hostName(host: string | undefined): string {
  return (host ?? "").replace(/:\d+$/, "");
}

function packageVersion(): string {
  const manifest = new URL("../../package.json", import.meta.url);
  return (JSON.parse(readFileSync(manifest, "utf8")) as { version: string }).version;
}
