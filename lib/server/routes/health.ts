import type { FastifyInstance } from "fastify";
import type { ServerContext } from "../context.js";

type Health = "ok" | "loading" | "starting" | "unresponsive" | "draining" | "dead";

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
  const open = { config: { public: true } } as const;
  app.get("/health", open, async (_, reply) => {
    const status = healthOf(context);
    return reply.code(status === "draining" || status === "dead" ? 503 : 200).send({ status });
  });
  app.get("/ready", open, async (_, reply) => {
    const status = healthOf(context);
    const reason = context.state.engine?.stats().trouble;
    return reply.code(status === "ok" ? 200 : 503).send({ status, ...(reason !== undefined && { reason }) });
  });
  app.get("/metrics", async (_, reply) => {
    return reply.type(context.metrics.registry.contentType).send(await context.metrics.text());
  });
}
