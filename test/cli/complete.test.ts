import { PassThrough } from "node:stream";
import { expect, it } from "vitest";
import { complete } from "../../lib/cli/complete.js";
import { smallModel } from "./support.js";

it("a completion stays within the model's context", async () => {
  using coder = smallModel({ maxPositionEmbeddings: 64 });
  const prompt = Array.from({ length: 56 }, (_, i) => 10 + i);
  const done = await complete(coder, prompt, { maxTokens: 8, canvas: "fixed", steps: 1 });
  expect(done).toMatchObject({ tokens: 8, forwards: 2, finishReason: "length" });
  await expect(complete(coder, prompt, { maxTokens: 9 })).rejects.toThrow(
    "56 prompt tokens and 9 more exceed the model's context of 64",
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
