import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import files from "@fastify/static";
import type { FastifyPluginCallback } from "fastify";

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
