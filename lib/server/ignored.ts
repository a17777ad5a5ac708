import type { ServerContext } from "./context.js";

/** Names that were warned of; clients can send any number of them. */
const MOST_NAMES = 256;
const warned = new WeakMap<ServerContext, Set<string>>();

/** Says in the log, once for each name, that a field of requests is not known and does nothing. */
export function warnIgnored(context: ServerContext, names: readonly string[]): void {
  if (names.length === 0) return;
  let known = warned.get(context);
  if (!known) {
    known = new Set();
    warned.set(context, known);
  }
  for (const name of names) {
    if (known.has(name) || known.size >= MOST_NAMES) continue;
    known.add(name);
    const message = "requests have a field that is not known and has no effect (--strict refuses such requests)";
    context.log.warn({ field: name.slice(0, 128) }, message);
  }
}
