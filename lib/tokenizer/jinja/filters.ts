import { ITERATOR_FILTERS } from "./filters-iterators.js";
import { NUMBER_FILTERS } from "./filters-numbers.js";
import { SEQUENCE_FILTERS } from "./filters-sequences.js";
import { TEXT_FILTERS } from "./filters-text.js";
import type { Kwargs, Value } from "./values.js";

/** A filter: takes a value and the arguments given to it. */
export type Filter = (value: Value, args: readonly Value[], kwargs: Kwargs) => Value;

/** Every filter of jinja2, by name; those that are left out raise when they are used. */
export const FILTERS: ReadonlyMap<string, Filter> = new Map([
  ...TEXT_FILTERS,
  ...NUMBER_FILTERS,
  ...SEQUENCE_FILTERS,
  ...ITERATOR_FILTERS,
]);

const CONTEXT = new Set(["map", "select", "reject", "selectattr", "rejectattr", "random"]);

/** Filters that jinja2 never works out ahead of time. */
export function isContextFilter(name: string): boolean {
  return CONTEXT.has(name);
}
