import type { Choice, EngineEvent, TextEvent } from "./types.js";

/** Events from a producer that never waits, for one consumer: `for await (const event of queue)`. */
export class EventQueue<T> implements AsyncIterableIterator<T> {
  #items: T[] = [];
  #waiting: { resolve(result: IteratorResult<T>): void; reject(error: unknown): void } | undefined;
  #ended = false;
  #error: unknown;
  readonly #onReturn: () => void;

  /** @param onReturn called when the consumer leaves before the end */
  constructor(onReturn: () => void) {
    this.#onReturn = onReturn;
  }

  push(item: T): void {
    if (this.#ended) return;
    const waiting = this.#waiting;
    if (waiting) {
      this.#waiting = undefined;
      waiting.resolve({ value: item, done: false });
    } else this.#items.push(item);
  }

  /** Ends it, with an error that is thrown after the events before it. */
  end(error?: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (!waiting) this.#error = error;
    else if (error === undefined) waiting.resolve({ value: undefined, done: true });
    else waiting.reject(error);
  }

  next(): Promise<IteratorResult<T>> {
    const [first] = this.#items;
    if (this.#items.length > 0) {
      this.#items.shift();
      return Promise.resolve({ value: first, done: false });
    }
    if (this.#error !== undefined) {
      const error = this.#error;
      this.#error = undefined;
      return Promise.reject(error);
    }
    if (this.#ended) return Promise.resolve({ value: undefined, done: true });
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
    });
  }

  return(): Promise<IteratorResult<T>> {
    const unfinished = !this.#ended;
    this.end();
    this.#items = [];
    this.#error = undefined;
    if (unfinished) this.#onReturn();
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}

/** Reads events to their end, as those of `Engine.generate` or `generateBlocks`, and gives the choices by their index. */
export async function collectChoices(events: AsyncIterable<EngineEvent>): Promise<Choice[]> {
  const parts = new Map<number, TextEvent[]>();
  const choices: Choice[] = [];
  for await (const event of events) {
    if (event.type === "start") parts.set(event.index, []);
    else if (event.type === "text") parts.get(event.index)?.push(event);
    else if (event.type === "done") {
      const { type: _, ...rest } = event;
      const mine = parts.get(event.index) ?? [];
      choices.push({
        ...rest,
        text: mine.map(({ text }) => text).join(""),
        ids: mine.flatMap(({ ids }) => ids),
        tokens: mine.flatMap(({ tokens }) => tokens),
      });
    }
  }
  return choices.sort((a, b) => a.index - b.index);
}
