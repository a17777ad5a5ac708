import { PassThrough } from "node:stream";
import { afterEach, expect, it, vi } from "vitest";
import { complete } from "../../lib/cli/complete.js";
import { Engine } from "../../lib/engine/index.js";
import { smallModel } from "./support.js";

const CONTEXT = 2048;

afterEach(() => {
  vi.restoreAllMocks();
});

it("a completion takes memory for what it can fill, not for a whole context", async () => {
  using coder = smallModel({ maxPositionEmbeddings: CONTEXT });
  const create = vi.spyOn(Engine, "create");
  const tokens = async (length: number, maxTokens: number) => {
    const prompt = Array.from({ length }, (_, i) => 10 + (i % 100));
    const done = await complete(coder, prompt, { maxTokens, canvas: "fixed", blockSize: 16, steps: 1 });
    return [done.tokens, create.mock.lastCall?.[0].cacheTokens];
  };
  expect(await tokens(7, 9)).toEqual([9, 16]);
  expect(await tokens(33, 20)).toEqual([20, 53]);
  expect(await tokens(CONTEXT - 8, 8)).toEqual([8, CONTEXT]);
  await expect(complete(coder, [10], { maxTokens: CONTEXT })).rejects.toThrow(
    `1 prompt tokens and ${CONTEXT} more exceed the model's context of ${CONTEXT}`,
  );
});

it("a pause after a frame ends as soon as the completion is to stop", async () => {
  using coder = smallModel();
  const controller = new AbortController();
  const stream = Object.assign(new PassThrough(), { isTTY: true, columns: 80, rows: 24 });
  stream.on("data", () => controller.abort()); // the first frame is drawn, and an hour's pause begins
  const screen = { stream: stream as unknown as NodeJS.WriteStream, live: true, pause: 3_600_000 };
  const done = await complete(coder, [10, 11], { maxTokens: 64, signal: controller.signal }, screen);
  expect(done.finishReason).toBe("abort");
});
