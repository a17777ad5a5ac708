import { randomUUID } from "node:crypto";
import type { ServerContext } from "../context.js";
import type { Head } from "../protocol/dialect.js";

/** The head of a new response. @param prefix of its id, which says what it is */
export function headOf({ state }: ServerContext, prefix: string, model: string): Head {
  return {
    id: `${prefix}-${randomUUID().replaceAll("-", "")}`,
    created: Math.floor(Date.now() / 1000),
    model,
    system_fingerprint: state.fingerprint,
  };
}
