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

/** Whether a filter depends on the context, so that jinja2 never evaluates it at compile time. */
export function isContextFilter(name: string): boolean {
  return CONTEXT.has(name);
}
