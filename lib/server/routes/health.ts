import type { FastifyInstance } from "fastify";
import type { ServerContext } from "../context.js";

type Health = "ok" | "loading" | "starting" | "draining" | "dead";

function healthOf({ state: { engine, failed, draining } }: ServerContext): Health {
  if (draining) return "draining";
  if (failed) return "dead";
  if (!engine) return "loading";
  const { state } = engine.stats();
  if (state === "ready") return "ok";
  if (state === "starting" || state === "draining") return state;
  return "dead";
}

/**
 * GET /health: whether the process should live on; GET /ready: whether it should get requests. While the model is loaded,
 * or a dead worker is replaced, the process is alive and not ready.
 */
export function healthRoutes(app: FastifyInstance, context: ServerContext): void {
  const open = { config: { public: true } } as const;
  app.get("/health", open, async (_, reply) => {
    const status = healthOf(context);
    return reply.code(status === "draining" || status === "dead" ? 503 : 200).send({ status });
  });
  app.get("/ready", open, async (_, reply) => {
    const status = healthOf(context);
    return reply.code(status === "ok" ? 200 : 503).send({ status });
  });
  app.get("/metrics", async (_, reply) => {
    return reply.type(context.metrics.registry.contentType).send(await context.metrics.text());
  });
}
