/**
 * Several sources as one, each value as it comes; no source is asked for more before its last value was taken. When one
 * fails, or the reader has enough, the others are told to stop.
 */
export async function* merge<T>(sources: readonly AsyncIterable<T>[]): AsyncGenerator<T, void, undefined> {
  if (sources.length === 1) {
    yield* sources[0];
    return;
  }
  type Step = { from: number; result: IteratorResult<T> } | { error: unknown };
  const iterators = sources.map((source) => source[Symbol.asyncIterator]());
  const running = new Set(iterators.keys());
  const ready: Step[] = [];
  let wake = () => {};
  const ask = (from: number) => {
    const put = (step: Step) => {
      ready.push(step);
      wake();
    };
    iterators[from].next().then(
      (result) => put({ from, result }),
      (error) => put({ error }),
    );
  };
  for (const from of running) ask(from);
  try {
    while (running.size > 0) {
      if (ready.length === 0) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      for (const step of ready.splice(0)) {
        if ("error" in step) throw step.error;
        if (step.result.done) running.delete(step.from);
        else {
          yield step.result.value;
          ask(step.from);
        }
      }
    }
  } finally {
    for (const from of running) void iterators[from].return?.()?.catch(() => {});
  }
}
