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
