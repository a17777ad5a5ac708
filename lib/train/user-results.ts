import { inspect } from "node:util";
import type { Metric } from "../diffusion/index.js";
import type { ObjectiveResult } from "../model/objective.js";
import * as torch from "../torch/index.js";
import { TrainError } from "./errors.js";
import type { TrainingSample } from "./events.js";
import { OWN_METRICS } from "./metrics.js";
import { isPromise } from "./user-code.js";

/**
 * Checks that an objective returned a valid {@link ObjectiveResult}.
 *
 * @param where location for the message, e.g. "stage 'cpt', step 7"
 * @throws TrainError TRAIN_OBJECTIVE with the found and the expected value
 */
export function checkResult(where: string, result: unknown): asserts result is ObjectiveResult {
  const wrong = (what: string) => new TrainError("TRAIN_OBJECTIVE", `${where}: the objective's ${what}`);
  const expected = "expected { loss, normalizer, metrics }";
  if (isPromise(result)) throw wrong(`result is a promise; ${expected}, from a function that is not async`);
  if (typeof result !== "object" || result === null || Array.isArray(result)) {
    throw wrong(`result is ${shown(result)}; ${expected}`);
  }
  const { loss, normalizer, metrics } = result as Partial<ObjectiveResult>;
  if (!(loss instanceof torch.Tensor)) throw wrong(`loss is ${shown(loss)}, expected a tensor`);
  if (loss.numel() !== 1) throw wrong(`loss has shape [${loss.shape}], expected one number: the sum over the batch`);
  if (!/^(float|bfloat)/.test(loss.dtype)) throw wrong(`loss is ${loss.dtype}, expected float32`);
  if (typeof normalizer !== "number" || !(normalizer >= 0 && Number.isFinite(normalizer))) {
    throw wrong(`normalizer is ${shown(normalizer)}, expected the count that the summed loss is divided by`);
  }
  if (normalizer > 0 && !loss.requiresGrad) throw wrong("loss does not depend on the model's weights");
  if (metrics === undefined) return;
  if (typeof metrics !== "object" || metrics === null || Array.isArray(metrics) || metrics instanceof torch.Tensor) {
    throw wrong(`metrics are ${shown(metrics)}, expected an object of numbers by their names`);
  }
  for (const [name, metric] of Object.entries(metrics)) {
    if (OWN_METRICS.has(name)) {
      throw wrong(`metric '${name}' has the name of a built-in metric; choose another name`);
    }
    const problem = metricProblem(metric);
    if (problem) throw wrong(`metric '${name}' ${problem}`);
  }
}

function metricProblem(metric: unknown): string | undefined {
  if (typeof metric === "object" && metric !== null && !(metric instanceof torch.Tensor)) {
    const { total, count } = metric as { total?: unknown; count?: unknown };
    if (typeof count === "number" && count >= 0 && Number.isFinite(count))
      return valueProblem(total, "has a total that is");
    return `is ${shown(metric)}, expected a number, a tensor or { total, count }`;
  }
  return valueProblem(metric, "is");
}

function valueProblem(value: unknown, is: string): string | undefined {
  if (typeof value === "number") return undefined;
  if (!(value instanceof torch.Tensor)) return `${is} ${shown(value)}, expected a number, a tensor or { total, count }`;
  if (value.numel() !== 1) return `${is} a tensor of shape [${value.shape}], expected one number`;
  return value.dtype.startsWith("complex") ? `${is} a ${value.dtype} tensor, expected a real number` : undefined;
}

/** The metrics without their graphs, copied into tensors of the trainer: the objective keeps its own tensors. */
export function detachedMetrics(metrics: Record<string, Metric> = {}): Record<string, Metric> {
  const detached = (value: number | torch.Tensor) => (typeof value === "number" ? value : value.detach());
  return Object.fromEntries(
    Object.entries(metrics).map(([name, metric]) => {
      const isMean = typeof metric === "object" && !(metric instanceof torch.Tensor);
      return [name, isMean ? { total: detached(metric.total), count: metric.count } : detached(metric)];
    }),
  );
}

/**
 * Checks that an objective's state can be stored in a checkpoint, which keeps it as JSON.
 *
 * @throws TrainError TRAIN_OBJECTIVE with the path of a value that JSON cannot represent
 */
export function checkState(where: string, state: Record<string, unknown>): void {
  const problem = jsonProblem("state", state, new Set());
  if (problem)
    throw new TrainError("TRAIN_OBJECTIVE", `${where}: the objective's ${problem}: checkpoints keep it as JSON`);
}

function jsonProblem(path: string, value: unknown, above: Set<object>): string | undefined {
  if (value === null || typeof value === "string" || typeof value === "boolean" || value === undefined)
    return undefined;
  if (typeof value === "number") return Number.isFinite(value) ? undefined : `${path} is ${value}`;
  if (typeof value !== "object") return `${path} is a ${typeof value}`;
  if (above.has(value)) return `${path} contains itself`;
  const prototype: unknown = Object.getPrototypeOf(value);
  if (!Array.isArray(value) && prototype !== Object.prototype && prototype !== null) {
    return `${path} is ${shown(value)}`;
  }
  const inside = new Set(above).add(value);
  for (const [key, inner] of Object.entries(value)) {
    const problem = jsonProblem(Array.isArray(value) ? `${path}[${key}]` : `${path}.${key}`, inner, inside);
    if (problem) return problem;
  }
  return undefined;
}

function shown(value: unknown): string {
  if (value instanceof torch.Tensor) return "a tensor";
  return inspect(value, { depth: 0, breakLength: Number.POSITIVE_INFINITY }).slice(0, 80);
}

/**
 * Checks that a hook returned a valid result for its event.
 *
 * @param where location for the message, e.g. "stage 'cpt', step 7: evaluate"
 * @throws TrainError TRAIN_HOOK
 */
export function checkHookResult(where: string, kind: "evaluate" | "sample", result: unknown): void {
  const fail = (what: string) => new TrainError("TRAIN_HOOK", `${where} returned ${what}`);
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
