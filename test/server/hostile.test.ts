import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Engine } from "../../lib/engine/index.js";
import { openApiDocument } from "../../lib/server/index.js";
import { bodies } from "./hostile.js";
import { chunksOf, type Json, json, type Started, smallEngine, start } from "./support.js";

/** Requests in all; DIFFCODER_HOSTILE=20000 is what a release is tested with. */
const COUNT = Number(process.env.DIFFCODER_HOSTILE ?? 600);
const { schemas } = openApiDocument("0").components as Json;

let engine: Engine;
let served: Started;
beforeAll(async () => {
  engine = await smallEngine();
  served = await start(engine, { requestTimeout: 20 });
});
afterAll(async () => {
  await served.server.close({ drain: 0 });
  await engine.close();
});

describe("generated requests", () => {
  it.each([
    ["/v1/completions", "CompletionRequest", 0.45],
    ["/v1/chat/completions", "ChatCompletionRequest", 0.35],
    ["/tokenize", "TokenizeRequest", 0.1],
    ["/detokenize", "DetokenizeRequest", 0.1],
  ])(
    "of %s are answered or refused, never failed at",
    async (path, schema, share) => {
      const seen = new Map<number, number>();
      await fc.assert(
        fc.asyncProperty(bodies(schemas[schema]), async (body) => {
          const response = await served.post(path, body);
          seen.set(response.status, (seen.get(response.status) ?? 0) + 1);
          if (response.status === 200) {
            const isStream = response.headers.get("content-type")?.startsWith("text/event-stream");
            if (isStream) for (const chunk of await chunksOf(response)) expect(chunk.error).toBeUndefined();
            else await response.json();
            return;
          }
          expect(response.status).toBeGreaterThanOrEqual(400);
          expect(response.status).toBeLessThan(500);
          const { error } = await json(response);
          expect(error).toEqual({
            message: expect.any(String),
            type: expect.any(String),
            param: error.param === null ? null : expect.any(String),
            code: expect.any(String),
          });
        }),
        { numRuns: Math.ceil(COUNT * share), seed: COUNT === 600 ? 5 : Date.now() },
      );
      // A generator whose requests all fail at the first field would test nothing.
      expect(seen.get(200) ?? 0).toBeGreaterThan(COUNT * share * 0.05);
      expect(seen.get(400) ?? 0).toBeGreaterThan(COUNT * share * 0.05);
      expect(served.log.filter(({ level }) => level === "error" || level === "fatal")).toEqual([]);
    },
    COUNT * 1000,
  );

  it("leave nothing behind", async () => {
    expect(served.server.open).toBe(0);
    expect(engine.stats()).toMatchObject({ running: 0, waiting: 0, cacheUsage: 0, state: "ready" });
    expect((await served.post("/v1/completions", { prompt: "x", max_tokens: 2 })).status).toBe(200);
  });
});
