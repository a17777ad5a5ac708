import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import type { Server as HttpsServer } from "node:https";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import cors from "@fastify/cors";
import files from "@fastify/static";
import fastify, {
  type FastifyInstance,
  type FastifyPluginCallback,
  type FastifyReply,
  type FastifyRequest,
  type FastifyServerOptions,
  LogController,
} from "fastify";
import type { ServerContext } from "./context.js";
import { ApiError } from "./errors.js";
import { answerErrors, refuseBrokenHttp } from "./http-errors.js";
import { logResponses } from "./operations/access-log.js";
import type { ApiKeys } from "./operations/api-keys.js";
import { parseBody } from "./operations/body.js";
import type { Connections } from "./operations/connections.js";
import type { LogDestination } from "./operations/log-output.js";
import type { ReloadedTls } from "./operations/tls.js";
import { Upload, type Uploads } from "./operations/uploads.js";
import { isLoopback, type ServerSettings } from "./options.js";

const REQUEST_ID = /^[\w.:-]{1,128}$/;

export interface AppParts {
  settings: ServerSettings;
  tls: ReloadedTls | undefined;
  logTo: LogDestination;
  connections: Connections;
  uploads: Uploads;
}

/** An application without routes, which reads and refuses as the settings say. */
export function makeApp(parts: AppParts): FastifyInstance {
  const { settings, tls, connections, uploads } = parts;
  const app = fastify(fastifyOptions(parts));
  connections.attach(app.server);
  tls?.attach(app.server as unknown as HttpsServer);
  readBodies(app, settings, uploads);
  return app;
}

/** A body that cannot be used, in the place of one: the framework would close the connection for it. */
class UnusableBody {
  constructor(readonly error: unknown) {}
}

function readBodies(app: FastifyInstance, { bodyLimit }: ServerSettings, uploads: Uploads): void {
  const held = new WeakMap<FastifyRequest, Upload>();
  app.addHook("onRequest", async (request, reply) => {
    const upload = new Upload(uploads);
    held.set(request, upload);
    reply.raw.once("close", () => upload.release());
  });
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(/^application\/(\w+\+)?json\b/i, async (request: FastifyRequest) => {
    try {
      const upload = held.get(request) ?? new Upload(uploads);
      return parseBody(await upload.read(request.raw, bodyLimit));
    } catch (error) {
      return new UnusableBody(error);
    }
  });
  app.addContentTypeParser("*", async (request: FastifyRequest) => {
    if (request.is404) return undefined;
    const message = "the body must be JSON: Content-Type: application/json";
    return new UnusableBody(new ApiError("unsupported_media_type", message));
  });
  app.addHook("preValidation", async ({ body }) => {
    if (body instanceof UnusableBody) throw body.error;
  });
}

/** What happens at every request, whatever its route. */
export function addHooks(app: FastifyInstance, context: ServerContext, keys: ApiKeys): void {
  const { settings, state } = context;
  const open = !keys.required && !settings.insecure;
  logResponses(app, context.metrics);
  app.addHook("onRequest", async (request, reply) => {
    reply.header("x-request-id", request.id);
    if (state.draining) reply.header("connection", "close");
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
    const name = keys.check(request.headers);
    if (name !== undefined) context.keyNames.set(request, name);
  });
  answerErrors(app, context);
}

function fastifyOptions({ settings, tls, logTo, connections }: AppParts): FastifyServerOptions {
  const options: FastifyServerOptions & { https?: object; http?: object } = {
    bodyLimit: settings.bodyLimit,
    requestTimeout: settings.uploadTimeout * 1000,
    connectionTimeout: settings.sendTimeout * 1000,
    keepAliveTimeout: settings.idleTimeout * 1000,
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
      stream: logTo,
    },
    frameworkErrors: (error, _request, reply) => {
      const apiError = new ApiError("bad_request", error.message);
      void (reply as FastifyReply).code(apiError.status).send(apiError.toBody());
    },
    clientErrorHandler: (error, socket) => refuseBrokenHttp(error, socket, connections),
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

/** Of a Host header: the name without the port. */
function hostName(host: string | undefined): string {
  return (host ?? "").replace(/:\d+$/, "");
}

/** The folder of the built playground. */
export const PLAYGROUND = fileURLToPath(new URL("../../assets/playground", import.meta.url));

/** A plain page, for where the playground is not built. */
const PLAIN_PAGE = fileURLToPath(new URL("../../assets/plain-page", import.meta.url));

/** Nothing from elsewhere, nothing inline, and no other page may frame ours. */
const POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** Serves the playground at /, without an API key. Browsers ask again whether a file has changed (ETag). */
export const page: FastifyPluginCallback<{ folder?: string }> = (app, { folder = PLAYGROUND }, done) => {
  const root = existsSync(join(folder, "index.html")) ? folder : PLAIN_PAGE;
  app.addHook("onRoute", (route) => {
    route.config = { ...route.config, public: true } as typeof route.config;
  });
  app.register(files, {
    root,
    wildcard: false,
    decorateReply: false,
    cacheControl: false,
    setHeaders: (reply) => {
      reply.setHeader("cache-control", "no-cache");
      reply.setHeader("content-security-policy", POLICY);
      reply.setHeader("x-content-type-options", "nosniff");
      reply.setHeader("referrer-policy", "no-referrer");
    },
  });
  done();
};
