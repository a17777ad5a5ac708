// What crosses between a client and its worker, and the types that both ends share.

/** What a worker does on request: for each kind, a function of one argument. */
export type Handlers<H> = { [K in keyof H]: (argument: never) => unknown };

export type ArgumentOf<H extends Handlers<H>, K extends keyof H> = Parameters<H[K]>[0];

export type ResultOf<H extends Handlers<H>, K extends keyof H> =
  Awaited<ReturnType<H[K]>> extends infer R ? (R extends Transfer<infer T> ? T : R) : never;

/** A result of a handler, with the buffers that the worker gives away with it instead of copying them. */
export class Transfer<T> {
  readonly value: T;
  readonly buffers: readonly ArrayBuffer[];

  constructor(value: T, buffers: readonly ArrayBuffer[]) {
    this.value = value;
    this.buffers = buffers;
  }
}

/** A request without an id gets no reply. */
export interface Request {
  readonly id?: number;
  readonly kind: PropertyKey;
  readonly argument: unknown;
}

export type Reply =
  | { readonly kind: "ready" }
  /** The worker cannot be set up. */
  | { readonly kind: "unusable"; readonly error: SentError }
  | { readonly kind: "result"; readonly id: number; readonly result: unknown }
  | { readonly kind: "error"; readonly id: number; readonly error: SentError }
  /** Not a reply to a request. */
  | { readonly kind: "event"; readonly event: unknown };

/** An error as plain data: neither its class nor its code survives the structured clone algorithm. */
export interface SentError {
  readonly name: string;
  readonly message: string;
  readonly code?: string;
  readonly details?: Readonly<Record<string, string | number>>;
  readonly stack?: string;
}

/** @param error whatever was thrown, an Error or not */
export function sentError(error: unknown): SentError {
  if (!(error instanceof Error)) return { name: "Error", message: String(error) };
  const { name, message, stack, code, details } = error as Error & { code?: unknown; details?: SentError["details"] };
  return {
    ...{ name, message, stack },
    ...(typeof code === "string" && { code }),
    ...(typeof details === "object" && { details }),
  };
}

/** The error of a worker in this thread: an Error with the name, the code and the stack of the one that was thrown there. */
export function receivedError({ name, message, code, stack }: SentError): Error {
  return Object.assign(new Error(message), { name }, code !== undefined && { code }, stack !== undefined && { stack });
}
