import { randomUUID } from "node:crypto";
import type { FastifyRequest } from "fastify";
import type * as z from "zod";
import { checkModel, readyEngine, type ServerContext, type TextEngine, warnIgnored } from "../context.js";
import { type Parsed, parseRequest } from "../protocol/parse.js";
import type { Unsupported } from "../protocol/requests.js";
import type { Head } from "../protocol/response-format.js";

/** A request that can be worked on. */
export interface OpenedRequest<T> extends Parsed<T> {
  engine: TextEngine;
  /** The name the client calls the model by. */
  model: string;
}

/**
 * What every route does first: is there an engine, is the request what it should be, is the model ours.
 *
 * @param unsupported known fields that are not honoured
 * @throws ApiError as {@link readyEngine}, {@link parseRequest} and {@link checkModel} do
 */
export function openRequest<S extends z.ZodObject<{ model: z.ZodType<string | null | undefined> }>>(
  context: ServerContext,
  http: FastifyRequest,
  schema: S,
  unsupported?: Record<string, Unsupported>,
): OpenedRequest<z.output<S>> {
  const engine = readyEngine(context);
  const { strict } = context.settings;
  const parsed = parseRequest(schema, http.body, { strict, unsupported });
  warnIgnored(context, parsed.ignored);
  const { model } = parsed.request as { model?: string | null };
  return { ...parsed, engine, model: checkModel(context, model) };
}

/** The head of a new response. @param prefix of its id, which says what it is */
export function headOf({ state }: ServerContext, prefix: string, model: string): Head {
  return {
    id: `${prefix}-${randomUUID().replaceAll("-", "")}`,
    created: Math.floor(Date.now() / 1000),
    model,
    system_fingerprint: state.fingerprint,
  };
}
