import { fileURLToPath } from "node:url";
import { inspect } from "node:util";
import { DistributedError } from "../distributed/index.js";
import { TrainError, type TrainErrorCode } from "./errors.js";

/**
 * What a user's code threw, as an error that says where in the run that was. The thrown value is its `cause`. What already
 * says so, and what is about another process, comes back as it is.
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

/** Where modules of this library lie: frames of the stack from there tell a user nothing. */
const OWN_ROOT = fileURLToPath(new URL("../", import.meta.url));

/** The user's own line that threw, FILE:LINE:COLUMN; undefined where the error comes from the library by itself. */
function placeOf({ stack = "" }: Error): string | undefined {
  for (const line of stack.split("\n")) {
    const match = /^\s*at (?:.*\()?((?:file:\/\/)?\/[^()]*?:\d+:\d+)\)?$/.exec(line);
    if (!match) continue;
    const place = match[1].startsWith("file://") ? match[1].slice("file://".length) : match[1];
    if (place.startsWith(`${OWN_ROOT}train/`)) return undefined; // from here on it is who called whom
    if (place.startsWith(OWN_ROOT) || place.includes("/node_modules/")) continue;
    return place;
  }
  return undefined;
}

/**
 * Waits for a promise of a user's code, though it may never settle: where nothing is left in the process that could settle
 * it, Node would end in silence, with exit code 0.
 *
 * @param failure made when that happens, with what was noticed: "its promise never settles ..."
 * @param patience seconds to wait at most; default: as long as anything is going on
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
    timer.unref(); // it must not keep the process from noticing that nothing is left
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
