import { EvaluationError } from "../errors.js";
import type { Task } from "../task.js";
import { cruxevalInput, cruxevalOutput } from "./cruxeval.js";
import { humanevalPlus, humanevalPlusMini, mbppPlus, mbppPlus399 } from "./evalplus.js";
import { humaneval } from "./humaneval.js";
import { infillingMultiLine, infillingRandomSpan, infillingRandomSpanLight, infillingSingleLine } from "./infilling.js";
import { mbpp, mbppAll } from "./mbpp.js";

/** Every benchmark, in the order in which they are listed. */
export const TASKS: readonly Task[] = [
  ...[humaneval, humanevalPlus, humanevalPlusMini],
  ...[mbpp, mbppAll, mbppPlus, mbppPlus399],
  ...[infillingSingleLine, infillingMultiLine, infillingRandomSpan, infillingRandomSpanLight],
  ...[cruxevalOutput, cruxevalInput],
];

/** @throws EvaluationError EVAL_OPTIONS for a benchmark that does not exist */
export function taskNamed(name: string): Task {
  const found = TASKS.find((task) => task.name === name);
  if (found !== undefined) return found;
  const names = TASKS.map((task) => task.name).join(", ");
  throw new EvaluationError("EVAL_OPTIONS", `there is no benchmark "${name}"; known: ${names}`);
}
