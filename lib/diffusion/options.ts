import * as z from "zod";
import { DiffusionError } from "./errors.js";

/** Parses options by their schema; the error names each wrong key, its path and what is allowed. */
export function parseOptions<S extends z.ZodType>(what: string, schema: S, options: unknown): z.output<S> {
  const parsed = schema.safeParse(options);
  if (!parsed.success) throw new DiffusionError("DIFFUSION_OPTIONS", `${what}: ${z.prettifyError(parsed.error)}`);
  return parsed.data;
}
