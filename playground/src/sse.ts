/**
 * The data of server-sent events, one string per event, as they arrive. Comments and other fields are skipped.
 *
 * @param body bytes of a text/event-stream response; it is cancelled when the loop over the events ends early
 */
export async function* eventData(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = done ? "" : (lines.pop() ?? "");
      // Servers of this API put one event on one line, so a line is an event.
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trimStart();
      if (done) return;
    }
  } finally {
    await reader.cancel().catch(() => {}); // the connection may be broken already
  }
}
