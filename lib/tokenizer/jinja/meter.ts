import { LimitExceeded } from "./errors.js";

/** Limits of one rendering. */
export interface RenderLimits {
  /** Evaluated expressions, statements and loop iterations; work on long values counts by length. */
  steps: number;
  /** Characters and elements of all values created, kept or not. */
  units: number;
  /** Nested calls of macros and recursive loops. Python's stack limit is at about the same depth. */
  depth: number;
}

/** Maximum length of a string or list that an expression may create. */
const MAX_LENGTH = 1 << 26;
/** Characters or elements that a scan (a search, a comparison, a copy) processes per step. */
const SCAN_PER_STEP = 64;

const meter = { steps: 0, units: 0, depth: 0, limits: { steps: 0, units: 0, depth: 0 } as RenderLimits };

/**
 * Runs `work` under limits. Rendering is synchronous and never nested, so a single global meter is sufficient.
 */
export function withLimits<T>(limits: RenderLimits, work: () => T): T {
  meter.steps = 0;
  meter.units = 0;
  meter.depth = 0;
  meter.limits = limits;
  return work();
}

/** Extends the limits in proportion to the characters and elements of the input so far. */
export function extendLimits(perUnit: { steps: number; units: number }): void {
  const { limits, units } = meter;
  meter.limits = {
    ...limits,
    steps: limits.steps + units * perUnit.steps,
    units: limits.units + units * perUnit.units,
  };
}

/** Counts one step. */
export function step(): void {
  if (++meter.steps > meter.limits.steps) throw tooManySteps();
}

/** Counts the work of reading `length` characters or elements. */
export function scan(length: number): void {
  meter.steps += length / SCAN_PER_STEP;
  if (meter.steps > meter.limits.steps) throw tooManySteps();
}

/** Counts a search for `needle` characters in `length`: a long needle may be compared at every position. */
export function search(length: number, needle: number): void {
  scan(length + (needle > 64 ? (length * needle) / 256 : 0));
}

/** Counts a value of `length` characters or elements before it is created. */
export function allocate(length: number): void {
  if (!(length <= MAX_LENGTH)) {
    throw new LimitExceeded(`a value of ${length} characters or elements is too long (at most ${MAX_LENGTH})`);
  }
  meter.units += length;
  if (meter.units > meter.limits.units) {
    throw new LimitExceeded(`its values are too large in total (over ${meter.limits.units} characters and elements)`);
  }
  scan(length);
}

/** Counts a nested call while `work` runs. */
export function nested<T>(work: () => T): T {
  if (++meter.depth > meter.limits.depth) {
    throw new LimitExceeded(`macros or recursive loops are nested too deeply (over ${meter.limits.depth})`);
  }
  try {
    return work();
  } finally {
    meter.depth--;
  }
}

function tooManySteps(): LimitExceeded {
  return new LimitExceeded(`it takes too many steps (over ${meter.limits.steps})`);
}
