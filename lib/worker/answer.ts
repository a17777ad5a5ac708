import { type Handlers, type Reply, type Request, sentError, Transfer } from "./messages.js";

/** What a worker can do besides answering requests. */
export interface WorkerContext<Event> {
  /** Sends an event to the client. */
  emit(event: Event): void;
  /** Ends the worker once the reply to the present request is sent. */
  stop(): void;
}

/** Makes a worker ready, and returns its handlers. Requests wait until then. If it throws, the worker is unusable. */
export type Setup<H extends Handlers<H>, Event = never> = (context: WorkerContext<Event>) => H | Promise<H>;

/** The worker's end of the connection to its client. */
export interface WorkerEnd {
  send(reply: Reply, buffers?: readonly ArrayBuffer[]): void;
  stop(): void;
}

/**
 * Sets a worker up, and returns the function that handles its requests: each begins in the order of its arrival, and at once
 * if the worker is ready.
 */
export function answerRequests<H extends Handlers<H>, Event>(
  setup: Setup<H, Event>,
  { send, stop }: WorkerEnd,
): (request: Request) => void {
  let handlers: H | undefined;
  let isStopped = false;
  const context: WorkerContext<Event> = {
    emit: (event) => send({ kind: "event", event }),
    stop: () => {
      isStopped = true;
    },
  };
  const isReady = makeReady();

  async function makeReady(): Promise<boolean> {
    try {
      handlers = await Promise.resolve(context).then(setup); // not before this function has returned
    } catch (error) {
      send({ kind: "unusable", error: sentError(error) });
      return false;
    }
    send({ kind: "ready" });
    return true;
  }

  async function answer({ id, kind, argument }: Request): Promise<void> {
    try {
      const handler = (handlers as unknown as Record<PropertyKey, (argument: unknown) => unknown>)[kind];
      let result = handler(argument);
      if (result instanceof Promise) result = await result;
      if (id !== undefined) {
        if (result instanceof Transfer) send({ kind: "result", id, result: result.value }, result.buffers);
        else send({ kind: "result", id, result });
      }
    } catch (error) {
      if (id === undefined) throw error; // without a reply to carry it, an error ends the worker
      send({ kind: "error", id, error: sentError(error) });
    }
    if (isStopped) stop();
  }

  return (request) => {
    if (handlers) void answer(request);
    else void isReady.then((ready) => (ready ? answer(request) : undefined));
  };
}
