import { Agent, request } from "node:http";
import type { Send } from "./load.js";
import type { Timeline } from "./timeline.js";

/** Cuts a stream of server-sent events into the data of its events. */
export class EventSplitter {
  #rest = "";

  /** The data of the events that this piece completes. */
  push(piece: string): string[] {
    const events = (this.#rest + piece).split("\n\n");
    this.#rest = events.pop() ?? "";
    return events.filter((event) => event.startsWith("data: ")).map((event) => event.slice("data: ".length));
  }
}

interface Chunk {
  choices?: { token_ids?: number[] }[];
  usage?: { prompt_tokens: number; completion_tokens: number };
  dllm?: { forwards?: number };
  error?: { code?: string; message?: string };
}

/** Notes one event of a stream in its timeline. @returns whether the stream is over */
export function noteEvent(timeline: Timeline, data: string, at: number): boolean {
  if (data === "[DONE]") return true;
  const chunk = JSON.parse(data) as Chunk;
  if (chunk.error) timeline.error ??= chunk.error.code ?? chunk.error.message ?? "error";
  const count = chunk.choices?.reduce((sum, { token_ids = [] }) => sum + token_ids.length, 0) ?? 0;
  if (count > 0) timeline.marks.push({ at, tokens: (timeline.marks.at(-1)?.tokens ?? 0) + count });
  if (chunk.usage) {
    timeline.forwards = chunk.dllm?.forwards;
    const { prompt_tokens, completion_tokens } = chunk.usage;
    const seen = timeline.marks.at(-1)?.tokens ?? 0;
    if (completion_tokens !== seen) timeline.error ??= `${seen} of ${completion_tokens} tokens came`;
    if (prompt_tokens !== timeline.promptTokens) timeline.error ??= `a prompt of ${prompt_tokens} tokens`;
  }
  return false;
}

/** Streams completions from a server at `url`. One connection for each request that is under way, kept for the next. */
export function httpSender(url: string, dllm: object): { send: Send; close(): void } {
  const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY, noDelay: true });
  const send: Send = (item, timeline, signal) =>
    new Promise((resolve) => {
      const body = JSON.stringify({
        prompt: item.text,
        max_tokens: item.tokens,
        temperature: 0,
        ignore_eos: true,
        add_special_tokens: false,
        return_token_ids: true,
        stream: true,
        stream_options: { include_usage: true },
        dllm,
      });
      const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
      const fail = (error: Error) => {
        if (!signal.aborted && timeline.ended === undefined) timeline.error ??= error.message;
        resolve();
      };
      const outgoing = request(`${url}/v1/completions`, { method: "POST", agent, headers, signal }, (response) => {
        response.setEncoding("utf8");
        response.on("error", fail);
        if (response.statusCode !== 200) {
          timeline.error = `HTTP ${response.statusCode}`;
          response.resume().on("end", resolve);
          return;
        }
        const splitter = new EventSplitter();
        response.on("data", (piece: string) => {
          const at = performance.now();
          for (const data of splitter.push(piece)) if (noteEvent(timeline, data, at)) timeline.ended = at;
        });
        response.on("end", () => {
          if (timeline.ended === undefined) timeline.error ??= "the stream ended early";
          resolve();
        });
      });
      outgoing.on("error", fail);
      outgoing.end(body);
    });
  return { send, close: () => agent.destroy() };
}
