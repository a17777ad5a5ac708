import { FILTERS } from "./filter-helpers.js";
import { ITERATOR_FILTERS } from "./filters-iterators.js";
import { NUMBER_FILTERS } from "./filters-numbers.js";
import { SEQUENCE_FILTERS } from "./filters-sequences.js";
import { TEXT_FILTERS } from "./filters-text.js";

for (const [name, filter] of [...TEXT_FILTERS, ...NUMBER_FILTERS, ...SEQUENCE_FILTERS, ...ITERATOR_FILTERS]) {
  FILTERS.set(name, filter);
}

export { FILTERS };

const CONTEXT = new Set(["map", "select", "reject", "selectattr", "rejectattr", "random"]);

/** Filters that jinja2 never works out ahead of time. */
export function isContextFilter(name: string): boolean {
  return CONTEXT.has(name);
}
