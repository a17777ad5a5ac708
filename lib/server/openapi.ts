import * as z from "zod";
import { API_CODES } from "./api-error.js";
import {
  chatRequestSchema,
  completionRequestSchema,
  detokenizeRequestSchema,
  tokenizeRequestSchema,
} from "./protocol/requests.js";
import { ERROR_SCHEMA, RESPONSE_SCHEMAS } from "./protocol/response-schemas.js";

type Json = Record<string, unknown>;

/** The API as an OpenAPI 3.1 document. Requests are what the server checks by: one source for both. */
export function openApiDocument(version: string): Json {
  const requests = {
    CompletionRequest: completionRequestSchema,
    ChatCompletionRequest: chatRequestSchema,
    TokenizeRequest: tokenizeRequestSchema,
    DetokenizeRequest: detokenizeRequestSchema,
  };
  const schemas: Json = { ...RESPONSE_SCHEMAS, Error: ERROR_SCHEMA };
  for (const [name, schema] of Object.entries(requests)) schemas[name] = jsonSchema(schema);
  const statuses = [...new Set(Object.values(API_CODES).map(([status]) => status))];
  return {
    openapi: "3.1.0",
    info: {
      title: "diffcoder",
      version,
      description: "OpenAI's API over a block diffusion model, with the object `dllm` for how a text is denoised.",
      license: { name: "MIT", identifier: "MIT" },
    },
    servers: [{ url: "/" }],
    security: [{ bearer: [] }],
    paths: {
      "/v1/completions": post("Continue or infill text", "CompletionRequest", "Completion", statuses, true),
      "/v1/chat/completions": post("Answer a conversation", "ChatCompletionRequest", "ChatCompletion", statuses, true),
      "/v1/models": get("The model", "ModelList"),
      "/v1/models/{model}": {
        ...get("One model", "Model"),
        parameters: [{ name: "model", in: "path", required: true, schema: { type: "string" } }],
      },
      "/tokenize": post("Ids of a text or a conversation", "TokenizeRequest", "Tokens", statuses),
      "/detokenize": post("Text of ids", "DetokenizeRequest", "Text", statuses),
      "/version": get("Version and fingerprint", "Version"),
      "/health": get("Liveness probe", "Health", { open: true, unavailable: "Health" }),
      "/ready": get("Readiness probe", "Health", { open: true, unavailable: "Health" }),
      "/metrics": {
        get: {
          summary: "Metrics in Prometheus' text format",
          operationId: "getMetrics",
          responses: { 200: { description: "metrics", content: { "text/plain": { schema: { type: "string" } } } } },
        },
      },
    },
    components: {
      securitySchemes: { bearer: { type: "http", scheme: "bearer" } },
      schemas,
      responses: {
        Error: { description: "why not", content: { "application/json": { schema: { $ref: ref("Error") } } } },
      },
    },
  };
}

const ref = (name: string) => `#/components/schemas/${name}`;

function jsonSchema(schema: z.ZodType): Json {
  const { $schema, ...rest } = z.toJSONSchema(schema, { io: "input", unrepresentable: "any" }) as Json;
  return rest;
}

function post(summary: string, request: string, response: string, statuses: readonly number[], streams = false): Json {
  const content: Json = { "application/json": { schema: { $ref: ref(response) } } };
  if (streams) content["text/event-stream"] = { schema: { type: "string", description: "data: CHUNK, data: [DONE]" } };
  const errors = Object.fromEntries(statuses.map((status) => [status, { $ref: "#/components/responses/Error" }]));
  return {
    post: {
      summary,
      operationId: `create${response}`,
      requestBody: { required: true, content: { "application/json": { schema: { $ref: ref(request) } } } },
      responses: { 200: { description: "the answer", content }, ...errors },
    },
  };
}

function get(summary: string, response: string, { open = false, unavailable = "" } = {}): Json {
  const content = { "application/json": { schema: { $ref: ref(response) } } };
  const error = (name: string) => ({
    description: "not now",
    content: { "application/json": { schema: { $ref: ref(name) } } },
  });
  return {
    get: {
      summary,
      operationId: `get${summary.replace(/[^A-Za-z]/g, "")}`,
      ...(open && { security: [] }),
      responses: {
        200: { description: "the answer", content },
        ...(unavailable && { 503: error(unavailable) }),
        ...(!open && { 401: { $ref: "#/components/responses/Error" } }),
      },
    },
  };
}
