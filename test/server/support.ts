import { Engine, type EngineCreateOptions } from "../../lib/engine/index.js";
import { type CreateServerOptions, type ServedEngine, Server } from "../../lib/server/index.js";
import { PromptPool } from "../../lib/server/prompts/prompt-pool.js";
import type { Tokenizer } from "../../lib/tokenizer/index.js";
import { smallModel } from "../cli/support.js";

/** The engine itself, in this process. */
export function smallEngine(options: Omit<EngineCreateOptions, "model"> = {}): Promise<Engine> {
  return Engine.create({ model: smallModel(), ...options });
}

export interface Started {
  server: Server;
  url: string;
  log: Record<string, unknown>[];
  /** What `fetch` takes, with the address and JSON before it. */
  post(path: string, body: unknown, init?: RequestInit): Promise<Response>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** From source the first thread takes seconds to start: tests of time must not meet that. */
const warm = new Map<string, Promise<unknown>>();
function warmUp({ dir, hash, options }: Tokenizer): Promise<unknown> {
  const known = warm.get(hash);
  if (known !== undefined) return known;
  const { pool } = PromptPool.shared({ dir, hash, options }, { timeout: 10 });
  const started = pool.run("encode", { text: "x", addSpecialTokens: true, maxLength: 8 });
  warm.set(hash, started);
  return started;
}

/** A server on a free port. */
export async function start(
  engine: ServedEngine | Promise<ServedEngine>,
  options: CreateServerOptions = {},
): Promise<Started> {
  if (!(engine instanceof Promise) && engine.tokenizer) await warmUp(engine.tokenizer);
  const log: Record<string, unknown>[] = [];
  const logTo = { write: (line: string) => void log.push(JSON.parse(line)) };
  const server = Server.create(engine, { port: 0, servedModelNames: ["tiny"], logTo, shutdownTimeout: 5, ...options });
  const url = await server.listen();
  return {
    server,
    url,
    log,
    post: (path, body, init = {}) =>
      fetch(url + path, {
        method: "POST",
        body: typeof body === "string" || body instanceof Uint8Array ? body : JSON.stringify(body),
        ...init,
        headers: { "content-type": "application/json", ...init.headers },
      }),
    [Symbol.asyncDispose]: () => server.close({ drain: 0 }),
  };
}

// biome-ignore lint/suspicious/noExplicitAny: what a server answers is looked at field by field
export type Json = any;

export async function json(response: Response | Promise<Response>): Promise<Json> {
  return (await response).json();
}

/** The data of a stream of server-sent events, "[DONE]" included. */
export function dataOf(text: string): string[] {
  return text
    .split("\n\n")
    .filter((event) => event.startsWith("data: "))
    .map((event) => event.slice("data: ".length));
}

/** The chunks of a whole stream; the mark at its end must be there. */
export async function chunksOf(response: Response | Promise<Response>): Promise<Json[]> {
  const data = dataOf(await (await response).text());
  if (data.pop() !== "[DONE]") throw new Error("the stream does not end with [DONE]");
  return data.map((each) => JSON.parse(each));
}

/** Waits until something holds. */
export async function until(holds: () => boolean | Promise<boolean>, what: string, seconds = 30): Promise<void> {
  const end = performance.now() + seconds * 1000;
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`${what}: not within ${seconds} s`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
