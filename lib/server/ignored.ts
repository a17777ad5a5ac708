import type { FastifyReply } from "fastify";
import type { ServerContext } from "./context.js";

/** Names that are warned of; clients can send any number of them. */
const MOST_NAMES = 256;

/** Says in the log, once for each name, that a field of requests is not known and does nothing. */
export function warnIgnored({ ignoredNames: known, log }: ServerContext, names: readonly string[]): void {
  for (const name of names) {
    if (known.has(name) || known.size >= MOST_NAMES) continue;
    known.add(name);
    const message = "requests have a field that is not known and has no effect (--strict refuses such requests)";
    log.warn({ field: name.slice(0, 128) }, message);
  }
}

/** Names the fields that do nothing in the answer's head. */
export function noteIgnored(reply: FastifyReply, names: readonly string[]): void {
  if (names.length === 0) return;
  const written = names.slice(0, 16).map((name) => encodeURIComponent(Buffer.from(name.slice(0, 64)).toString()));
  reply.header("x-ignored-parameters", written.join(", "));
}
