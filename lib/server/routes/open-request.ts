import type { FastifyRequest } from "fastify";
import type * as z from "zod";
import { checkModel, readyEngine, type ServerContext } from "../context.js";
import { warnIgnored } from "../ignored.js";
import type { Unsupported } from "../protocol/fields.js";
import { type Parsed, parseRequest } from "../protocol/parse.js";
import type { TextEngine } from "../served-engine.js";

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
