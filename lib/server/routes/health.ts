import type { FastifyInstance } from "fastify";
import type * as z from "zod";
import type { ServerContext } from "../context.js";
import { documented } from "../openapi.js";
import { healthSchema } from "../protocol/responses.js";

type Health = z.output<typeof healthSchema>["status"];

function healthOf({ state: { engine, failed, draining } }: ServerContext): Health {
  if (draining) return "draining";
  if (failed) return "dead";
  if (!engine) return "loading";
  const { state, trouble } = engine.stats();
  if (state === "ready") return trouble === undefined ? "ok" : "unresponsive";
  if (state === "starting" || state === "draining") return state;
  return "dead";
}

/**
 * GET /health: the liveness probe; GET /ready: the readiness probe. While the model is loaded,
 * or a worker that is dead or hangs is replaced, the process is alive and not ready.
 */
export function healthRoutes(app: FastifyInstance, context: ServerContext): void {
  const probe = (summary: string, operationId: string) => ({
    config: { public: true },
    schema: documented(summary, operationId, { answer: healthSchema, open: true, unavailable: healthSchema }),
  });
  app.get("/health", probe("Liveness probe", "getLivenessProbe"), async (_, reply) => {
    const status = healthOf(context);
    return reply.code(status === "draining" || status === "dead" ? 503 : 200).send({ status });
  });
  app.get("/ready", probe("Readiness probe", "getReadinessProbe"), async (_, reply) => {
    const status = healthOf(context);
    const reason = context.state.engine?.stats().trouble;
    return reply.code(status === "ok" ? 200 : 503).send({ status, ...(reason !== undefined && { reason }) });
  });
  const metrics = documented("Metrics in Prometheus' text format", "getMetrics", { answer: { text: "metrics" } });
  app.get("/metrics", { schema: metrics }, async (_, reply) => {
    return reply.type(context.metrics.registry.contentType).send(await context.metrics.text());
  });
}
