/**
 * What ends the work on a template. It is no Error: it never leaves ChatTemplate, which makes one of it, and a stack
 * would cost more than most expressions do.
 */
export abstract class TemplateFault {
  constructor(readonly message: string) {}
}

/** An exception as Python or Jinja would raise it: `kind` is the exception's class, the message Python's own. */
export class PyError extends TemplateFault {
  readonly kind: string;
  /** The template's line, once it is known. */
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

/** A feature of Jinja or Python that is left out. The message names it. */
export class UnsupportedFeature extends TemplateFault {
  /** The template's line, once it is known. */
  line: number | undefined;
}

/** A template that works for too long or makes too much. The message says which limit. */
export class LimitExceeded extends TemplateFault {}

export function typeError(message: string): PyError {
  return new PyError("TypeError", message);
}

export function valueError(message: string): PyError {
  return new PyError("ValueError", message);
}

/** A missing key or index, which Jinja turns into an undefined value where it can. */
export function isLookupError(error: unknown): boolean {
  return error instanceof PyError && (error.kind === "KeyError" || error.kind === "IndexError");
}
