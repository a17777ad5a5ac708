import { fileURLToPath } from "node:url";
import { inspect } from "node:util";
import { DistributedError } from "../distributed/index.js";
import { TrainError, type TrainErrorCode } from "./errors.js";

/**
 * Wraps an error of a user's code in one that gives its location in the run. The thrown value is the `cause`. An error
 * that already has a location, or that is about another process, is returned unchanged.
 *
 * @param where e.g. "stage 'cpt', step 7: the objective"
 */
export function failureOf(code: TrainErrorCode, where: string, thrown: unknown): unknown {
  if (thrown instanceof TrainError || thrown instanceof DistributedError) return thrown;
  if (!(thrown instanceof Error)) {
    return new TrainError(code, `${where} threw ${inspect(thrown, { depth: 1 })}, which is not an Error`, {
      cause: thrown,
    });
  }
  const isCoded = typeof (thrown as { code?: unknown }).code === "string";
  const what = isCoded ? thrown.message : `${thrown.name}: ${thrown.message}`;
  const place = placeOf(thrown);
  return new TrainError(code, `${where} failed: ${what}${place ? ` (${place})` : ""}`, { cause: thrown });
}

/** Folder of this library's modules. Stack frames from there do not help a user. */
const OWN_ROOT = fileURLToPath(new URL("../", import.meta.url));

/** The line of the user's code that threw, FILE:LINE:COLUMN; undefined if the error comes from the library itself. */
function placeOf({ stack = "" }: Error): string | undefined {
  for (const line of stack.split("\n")) {
    const match = /^\s*at (?:.*\()?((?:file:\/\/)?\/[^()]*?:\d+:\d+)\)?$/.exec(line);
    if (!match) continue;
    const place = match[1].startsWith("file://") ? match[1].slice("file://".length) : match[1];
    if (place.startsWith(`${OWN_ROOT}train/`)) return undefined; // the remaining frames are the callers in the library
    if (place.startsWith(OWN_ROOT) || place.includes("/node_modules/")) continue;
    return place;
  }
  return undefined;
}

/**
 * Waits for a promise of a user's code that may never settle. If nothing is left in the process that could settle it,
 * Node would exit silently with code 0.
 *
 * @param failure makes the error for that case from a description: "its promise never settles ..."
 * @param patience maximum seconds to wait; default: as long as the event loop has work
 */
export async function settled<T>(
  work: T | PromiseLike<T>,
  failure: (problem: string) => Error,
  patience?: number,
): Promise<T> {
  if (!isPromise(work)) return work;
  let timer: NodeJS.Timeout | undefined;
  let onEmpty: (() => void) | undefined;
  const stuck = new Promise<never>((_, reject) => {
    onEmpty = () => reject(failure("its promise never settles: nothing is left that could settle it"));
    process.once("beforeExit", onEmpty);
    if (patience === undefined) return;
    timer = setTimeout(() => reject(failure(`its promise did not settle within ${patience} s`)), 1000 * patience);
    timer.unref(); // the timer must not count as work of the event loop
  });
  try {
    return await Promise.race([work, stuck]);
  } finally {
    clearTimeout(timer);
    if (onEmpty) process.off("beforeExit", onEmpty);
  }
}

export function isPromise(value: unknown): value is PromiseLike<unknown> {
  return (typeof value === "object" || typeof value === "function") && value !== null && "then" in value;
}
