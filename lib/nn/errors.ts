import { CodedError } from "../base/coded-error.js";

/** What can go wrong in this layer, for programs; the message is for people. */
export type NnErrorCode =
  | "NN_STATE_DICT" // names or shapes of a state dict that do not fit the module
  | "NN_OPTIMIZER" // parameters, options or a saved state an optimiser cannot use
  | "NN_SCHEDULE" // not a valid learning-rate schedule
  | "NN_ARGUMENT"; // anything else a caller got wrong

/** Every error of lib/nn. `code` is stable, `message` names the value that is wrong. */
export class NnError extends CodedError<NnErrorCode> {}

/** A tensor whose shape is not the one its parameter has. */
export interface ShapeMismatch {
  name: string;
  expected: number[];
  found: number[];
}

/** A state dict that does not fit: which names are missing, which are not known, which have another shape. */
export class StateDictError extends NnError {
  readonly missing: string[];
  readonly unexpected: string[];
  readonly mismatched: ShapeMismatch[];

  constructor(
    what: string,
    { missing, unexpected, mismatched }: { missing: string[]; unexpected: string[]; mismatched: ShapeMismatch[] },
    describe: (name: string) => string = (name) => name,
  ) {
    const lines = [`${what} does not fit`];
    if (missing.length > 0) lines.push(`  missing: ${shorten(missing.map(describe))}`);
    if (unexpected.length > 0) lines.push(`  unexpected: ${shorten(unexpected.map(describe))}`);
    if (mismatched.length > 0) {
      const parts = mismatched.map((m) => `${describe(m.name)} is [${m.found}], expected [${m.expected}]`);
      lines.push(`  other shape: ${shorten(parts)}`);
    }
    super("NN_STATE_DICT", lines.join("\n"));
    this.missing = missing;
    this.unexpected = unexpected;
    this.mismatched = mismatched;
  }
}

function shorten(names: string[], limit = 12): string {
  const shown = names.slice(0, limit).join(", ");
  return names.length > limit ? `${shown} and ${names.length - limit} more` : shown;
}
