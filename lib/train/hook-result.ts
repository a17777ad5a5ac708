import { inspect } from "node:util";
import { TrainError } from "./errors.js";
import type { TrainingSample } from "./events.js";

/**
 * Looks whether a hook gave what goes into events.
 *
 * @param where named in the message, e.g. "stage 'cpt', step 7: evaluate"
 * @throws TrainError TRAIN_HOOK
 */
export function checkHookResult(where: string, kind: "evaluate" | "sample", result: unknown): void {
  const fail = (what: string) => new TrainError("TRAIN_HOOK", `${where} gave ${what}`);
  const shown = (value: unknown) => inspect(value, { depth: 0, breakLength: Number.POSITIVE_INFINITY }).slice(0, 80);
  if (kind === "evaluate") {
    const isObject = typeof result === "object" && result !== null && !Array.isArray(result);
    if (!isObject) throw fail(`${shown(result)}, expected an object of numbers by their names`);
    const wrong = Object.entries(result).find(([, value]) => typeof value !== "number");
    if (wrong) throw fail(`${shown(wrong[1])} for '${wrong[0]}', expected a number`);
    return;
  }
  if (!Array.isArray(result)) throw fail(`${shown(result)}, expected a list of { prompt, text, note }`);
  for (const [i, sample] of result.entries()) {
    const { text, prompt = "", note = "" } = (sample ?? {}) as Partial<TrainingSample>;
    if ([text, prompt, note].every((part) => typeof part === "string")) continue;
    throw fail(`${shown(sample)} as sample ${i}, expected { prompt, text, note } of strings`);
  }
}
