import { performance } from "node:perf_hooks";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { ApiError } from "../errors.js";
import type { Metrics } from "./metrics.js";
import { ClientGone } from "./request-scope.js";

/** Asked for every few seconds, by machines. */
const QUIET = new Set(["/health", "/ready", "/metrics"]);

const failures = new WeakMap<FastifyRequest, string>();

/** What a request made, for its line in the log. */
export interface Generation {
  /** Of the response. */
  id: string;
  prompt_tokens: number;
  completion_tokens: number;
  choices: number;
}
const generations = new WeakMap<FastifyRequest, Generation>();

export function noteGeneration(request: FastifyRequest, generation: Generation): void {
  generations.set(request, generation);
}

/** Remembers why a request failed, for its line in the log. */
export function noteFailure(request: FastifyRequest, error: unknown): void {
  if (failures.has(request)) return;
  if (error instanceof ApiError) {
    failures.set(request, error.code);
    if (error.status >= 500 && error.status !== 503 && error.status !== 504) {
      // The cause is internal: it is logged here and not sent to the client.
      request.log.error({ err: error.cause ?? error }, "request failed");
    }
  } else if (error instanceof ClientGone) {
    failures.set(request, "client_gone");
  } else {
    failures.set(request, "internal_error");
    request.log.error({ err: error }, "request failed");
  }
}

/** One line for each response, and its count. Neither ever holds what was asked or answered. */
export function logResponses(app: FastifyInstance, metrics: Metrics): void {
  app.addHook("onRequest", async (request, reply) => {
    const began = performance.now();
    // A turn later: that the client is gone must first come through to the work for it.
    reply.raw.once("close", () => setImmediate(() => report(request, reply, metrics, began)));
  });
}

function report(request: FastifyRequest, { raw }: FastifyReply, metrics: Metrics, began: number): void {
  const route = request.routeOptions.url ?? "unknown";
  const code = failures.get(request) ?? (raw.writableFinished ? undefined : "client_gone");
  const status = code === "client_gone" ? 499 : raw.statusCode;
  metrics.response(route, request.method, status);
  const line = {
    method: request.method,
    route,
    status,
    seconds: Number(((performance.now() - began) / 1000).toFixed(4)),
    ...(code && { code }),
    ...generations.get(request),
  };
  if (QUIET.has(route)) request.log.debug(line, "response");
  else if (status >= 500) request.log.warn(line, "response");
  else request.log.info(line, "response");
}
