import { join } from "node:path";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { Server } from "../../lib/server/index.js";
import { scratchFolder, smallCheckpoint } from "../cli/support.js";
import { bodies } from "./hostile.js";
import {
  chatRequests,
  completionRequests,
  jsonText,
  refusable,
  spoiledChatRequests,
  spoiledCompletionRequests,
} from "./openai-schema.js";
import { descendants, metric, residentBytes, type Serving, serve } from "./serving.js";
import { chunksOf, type Json, json } from "./support.js";

/** Requests in all; DIFFCODER_HOSTILE=50000 is what a release is tested with. */
const SHORT = 900;
const COUNT = Number(process.env.DIFFCODER_HOSTILE ?? SHORT);
const isShort = COUNT <= SHORT;
const describing = Server.create(new Promise<never>(() => {}), { logLevel: "silent" });
const { schemas } = ((await describing.app.inject("/openapi.json")).json() as Json).components;
await describing.close();

const folder = scratchFolder();
/** The command as users start it: server and engine are processes of their own, and their memory is only theirs. */
let served: Serving;
let pids: number[];
/** Resident memory of the server and of its engine, every 2 % of the requests. */
const resident: number[][] = [];
const statuses: Record<number, number> = {};
let sent = 0;

beforeAll(async () => {
  const model = await smallCheckpoint(join(folder.path, "model"));
  served = await serve(model, "--log-level", "error", "--served-model-name", "tiny");
  pids = [served.child.pid ?? 0, ...descendants(served.child.pid ?? 0)];
}, 120_000);

interface Answered {
  status: number;
  error?: { message: string; type: string; param: string | null; code: string };
}

/** Sends a body and checks what holds for every answer: no failure of the server's, errors in OpenAI's form. */
async function exchange(path: string, body: Uint8Array | string): Promise<Answered> {
  const response = await fetch(served.url + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: body as string,
  });
  const { status } = response;
  statuses[status] = (statuses[status] ?? 0) + 1;
  if (++sent % Math.ceil(COUNT / 50) === 0) resident.push(pids.map(residentBytes));
  expect(served.stdout()).toBe("");
  if (status === 200) {
    const isStream = response.headers.get("content-type")?.startsWith("text/event-stream");
    if (isStream) for (const chunk of await chunksOf(response)) expect(chunk.error).toBeUndefined();
    else await response.json();
    return { status };
  }
  expect(status).toBeGreaterThanOrEqual(400);
  expect(status).toBeLessThan(500);
  const { error } = await json(response);
  expect(error).toEqual({
    message: expect.any(String),
    type: expect.any(String),
    param: error.param === null ? null : expect.any(String),
    code: expect.any(String),
  });
  return { status, error };
}

/** The field of the request that an error names. */
const fieldOf = (error: Answered["error"]) => /^\w+/.exec(error?.param ?? "")?.[0];
const runs = (share: number) => ({ numRuns: Math.ceil(COUNT * share), seed: isShort ? 5 : Date.now() });

describe("requests of OpenAI's schema", () => {
  it.each([
    ["/v1/completions", completionRequests, 0.25],
    ["/v1/chat/completions", chatRequests, 0.25],
  ] as const)(
    "that are valid are served by %s, or refused by the name of what it has not",
    async (path, requests, share) => {
      let served = 0;
      await fc.assert(
        fc.asyncProperty(requests, async (request) => {
          const { status, error } = await exchange(path, jsonText(request));
          if (status === 200) served++;
          else {
            expect(status).toBe(400);
            expect([...refusable(request)], JSON.stringify(error)).toContain(fieldOf(error));
          }
        }),
        runs(share),
      );
      expect(served).toBeGreaterThan(COUNT * share * 0.2);
    },
    COUNT * 1000,
  );

  it.each([
    ["/v1/completions", spoiledCompletionRequests, 0.1],
    ["/v1/chat/completions", spoiledChatRequests, 0.1],
  ] as const)(
    "that are spoiled in one field get its name from %s",
    async (path, requests, share) => {
      await fc.assert(
        fc.asyncProperty(requests, async ([request, field]) => {
          const { status, error } = await exchange(path, jsonText(request));
          expect(status).toBe(400);
          expect([field, ...refusable(request)], JSON.stringify(error)).toContain(fieldOf(error));
        }),
        runs(share),
      );
    },
    COUNT * 1000,
  );
});

describe("hostile requests", () => {
  it.each([
    ["/v1/completions", "CompletionRequest", 0.12],
    ["/v1/chat/completions", "ChatCompletionRequest", 0.12],
    ["/tokenize", "TokenizeRequest", 0.03],
    ["/detokenize", "DetokenizeRequest", 0.03],
  ])(
    "of %s are answered or refused, never failed at",
    async (path, schema, share) => {
      const seen = new Map<number, number>();
      await fc.assert(
        fc.asyncProperty(bodies(schemas[schema]), async (body) => {
          const { status } = await exchange(path, body);
          seen.set(status, (seen.get(status) ?? 0) + 1);
        }),
        runs(share),
      );
      // A generator whose requests all fail at the first field would test nothing.
      expect(seen.get(200) ?? 0).toBeGreaterThan(COUNT * share * 0.05);
      expect(seen.get(400) ?? 0).toBeGreaterThan(COUNT * share * 0.05);
    },
    COUNT * 1000,
  );

  it("leave nothing behind", async () => {
    for (const name of ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"]) {
      expect(await metric(served.url, name), name).toBe(0);
    }
    expect((await served.post({ prompt: "x", max_tokens: 2 })).status).toBe(200);
    expect([served.child.pid, ...descendants(served.child.pid ?? 0)]).toEqual(pids);
  });

  it.skipIf(isShort)("and no memory: after a fifth of them it does not grow", () => {
    const mean = (values: number[]) => values.reduce((sum, each) => sum + each, 0) / values.length;
    const mebibytes = resident.map((each) => each.map((bytes) => Math.round(bytes / 2 ** 20)));
    console.log(`${sent} requests, ${JSON.stringify(statuses)}, resident MiB ${mebibytes.join(" ")}`);
    for (const [index] of pids.entries()) {
      const of = resident.map((each) => each[index]);
      expect(mean(of.slice(-5))).toBeLessThan(mean(of.slice(10, 15)) * 1.1 + 16 * 2 ** 20);
    }
  });
});
