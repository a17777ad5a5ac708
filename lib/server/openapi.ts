import swagger from "@fastify/swagger";
import type { FastifyInstance, FastifySchema } from "fastify";
import { jsonSchemaTransform, jsonSchemaTransformObject } from "fastify-type-provider-zod";
import * as z from "zod";
import { API_CODES } from "./errors.js";
import { errorSchema } from "./protocol/responses.js";

/**
 * Serves the OpenAPI 3.1 document of all routes that are added to `app` after this call and have a schema. The schemas
 * only describe: routes parse requests themselves (protocol/parse.ts), and responses are not validated. A schema with
 * an id (`.meta({ id })`) is a component of that name.
 */
export function describeRoutes(app: FastifyInstance, version: string): void {
  app.setValidatorCompiler(() => () => true);
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
  app.register(swagger, {
    openapi: {
      openapi: "3.1.0",
      info: {
        title: "diffcoder",
        version,
        description: "OpenAI's API over a block diffusion model, with the object `dllm` for how a text is denoised.",
        license: { name: "MIT" },
      },
      servers: [{ url: "/" }],
      security: [{ bearer: [] }],
      components: { securitySchemes: { bearer: { type: "http", scheme: "bearer" } } },
    },
    transform: (route) => {
      if (!route.schema) return { schema: { hide: true }, url: route.url };
      return { ...jsonSchemaTransform(route), url: route.url.replace("*", ":model") };
    },
    transformObject: (document) => withUsedNames(jsonSchemaTransformObject(document)),
  });
}

/** The schema of a route for the document. */
export function documented(
  summary: string,
  operationId: string,
  {
    body,
    answer,
    streams = false,
    open = false,
    unavailable,
  }: {
    body?: z.ZodType;
    answer: z.ZodType | { text: string };
    /** The route can also answer as server-sent events. */
    streams?: boolean;
    /** No API key is needed. */
    open?: boolean;
    /** What a 503 holds, other than an error. */
    unavailable?: z.ZodType;
  },
): FastifySchema {
  const json = (description: string, schema: z.ZodType) => ({
    description,
    content: { "application/json": { schema } },
  });
  const events = z.string().describe("data: CHUNK, data: [DONE]");
  const success =
    "text" in answer
      ? { description: answer.text, content: { "text/plain": { schema: z.string() } } }
      : json("the answer", answer as z.ZodType);
  const statuses = body ? ERROR_STATUSES : open ? [] : [401];
  const response: Record<string, unknown> = {
    200: streams ? { ...success, content: { ...success.content, "text/event-stream": { schema: events } } } : success,
    ...Object.fromEntries(statuses.map((status) => [status, json("why not", errorSchema)])),
    ...(unavailable && { 503: json("not now", unavailable) }),
  };
  return { summary, operationId, ...(body && { body }), ...(open && { security: [] }), response } as FastifySchema;
}

const ERROR_STATUSES = [...new Set(Object.values(API_CODES).map(([status]) => status))];

/**
 * Leaves out the names that nothing refers to: the library writes each schema twice, as what is read (`NameInput`) and as
 * what is written. A request is then called as it is registered.
 */
function withUsedNames<D extends object>(document: D): D {
  const { paths, components } = document as { paths?: object; components?: { schemas?: Record<string, unknown> } };
  const schemas = components?.schemas ?? {};
  const used = new Map<string, unknown>();
  const find = (text: string) => {
    for (const [, name] of text.matchAll(/"#\/components\/schemas\/(\w+)"/g)) {
      if (used.has(name)) continue;
      used.set(name, schemas[name]);
      find(JSON.stringify(schemas[name]));
    }
  };
  find(JSON.stringify(paths));
  const kept = Object.fromEntries([...used].sort(([a], [b]) => (a < b ? -1 : 1)));
  const text = JSON.stringify({ ...document, components: { ...components, schemas: kept } });
  return JSON.parse(text.replace(/\b(\w+Request)Input\b/g, "$1")) as D;
}
