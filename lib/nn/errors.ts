import { CodedError } from "../base/coded-error.js";

/** Codes of {@link NnError}, for programs; the message is for people. */
export type NnErrorCode =
  | "NN_STATE_DICT" // names or shapes of a state dict that do not fit the module
  | "NN_OPTIMIZER" // invalid parameters, options or saved state of an optimizer
  | "NN_SCHEDULE" // not a valid learning-rate schedule
  | "NN_ARGUMENT"; // any other invalid argument

/** Every error of lib/nn. `code` is stable, `message` names the value that is wrong. */
export class NnError extends CodedError<NnErrorCode> {}

/** A tensor whose shape differs from that of its parameter. */
export interface ShapeMismatch {
  name: string;
  expected: number[];
  found: number[];
}

/** A state dict that does not match the module: missing names, unexpected names, and tensors of another shape. */
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
