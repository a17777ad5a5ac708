/**
 * Base class of faults that end the work on a template. It is not an Error, because ChatTemplate converts it to one,
 * and a stack trace would cost more than most expressions.
 */
export abstract class TemplateFault {
  constructor(readonly message: string) {}
}

/** An exception of Python or Jinja: `kind` is the exception's class, and the message is Python's. */
export class PyError extends TemplateFault {
  readonly kind: string;
  /** Line of the template, once it is known. */
  line: number | undefined;

  constructor(kind: string, message: string) {
    super(message);
    this.kind = kind;
  }
}

/** A template that does not parse or compile: jinja2's TemplateSyntaxError and TemplateAssertionError. */
export class TemplateSyntaxError extends TemplateFault {
  readonly line: number;

  constructor(message: string, line: number) {
    super(message);
    this.line = line;
  }
}

/** An unsupported feature of Jinja or Python, which the message names. */
export class UnsupportedFeature extends TemplateFault {
  /** Line of the template, once it is known. */
  line: number | undefined;
}

/** A template that exceeds a limit on time or memory, which the message names. */
export class LimitExceeded extends TemplateFault {}

export function typeError(message: string): PyError {
  return new PyError("TypeError", message);
}

export function valueError(message: string): PyError {
  return new PyError("ValueError", message);
}

/** Whether an error is a missing key or index, which Jinja converts to an undefined value where it can. */
export function isLookupError(error: unknown): boolean {
  return error instanceof PyError && (error.kind === "KeyError" || error.kind === "IndexError");
}
