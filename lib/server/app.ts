import { randomUUID } from "node:crypto";
import type { Server as HttpsServer } from "node:https";
import cors from "@fastify/cors";
import fastify, { type FastifyInstance, type FastifyReply, type FastifyServerOptions, LogController } from "fastify";
import { ApiError } from "./api-error.js";
import type { ServerContext } from "./context.js";
import { answerErrors, refuseBrokenHttp } from "./http-errors.js";
import { logResponses } from "./operations/access-log.js";
import type { ApiKeys } from "./operations/api-keys.js";
import { parseBody } from "./operations/body.js";
import type { ReloadedTls } from "./operations/tls.js";
import { isLoopback, type ServerSettings } from "./options.js";

const REQUEST_ID = /^[\w.:-]{1,128}$/;

/** Where the server writes its log: lines of JSON. */
export interface LogDestination {
  write(line: string): void;
}

/** An application without routes, which reads and refuses as the settings say. */
export function makeApp(
  settings: ServerSettings,
  tls: ReloadedTls | undefined,
  logTo: LogDestination | undefined,
): FastifyInstance {
  const app = fastify(fastifyOptions(settings, tls, logTo));
  tls?.attach(app.server as unknown as HttpsServer);
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(/^application\/(\w+\+)?json\b/i, { parseAs: "buffer" }, (_, body, done) => {
    try {
      done(null, parseBody(body as Buffer));
    } catch (error) {
      done(error as Error);
    }
  });
  return app;
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
    keys.check(request.headers);
  });
  answerErrors(app, context);
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

/** Of a Host header: the name without the port. */
function hostName(host: string | undefined): string {
  return (host ?? "").replace(/:\d+$/, "");
}
