/**
 * An error that programs tell by its `code`, which is stable, and people by its message. Each layer has a class of its own,
 * with the codes it may have.
 */
export abstract class CodedError<Code extends string> extends Error {
  readonly code: Code;

  constructor(code: Code, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}
