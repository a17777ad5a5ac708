import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { StableDiffCoder } from "../../lib/checkpoint/index.js";
import { here, randomPrompt, sharpCoder } from "./support.js";

let coder: StableDiffCoder;
beforeAll(() => {
  coder = sharpCoder();
});
afterAll(() => coder.dispose());

describe("the budget of a pass", () => {
  it("lets a prompt get on whose blocks are larger, however much decodes", async () => {
    await using engine = await here(coder, { maxNumBatchedTokens: 16, prefixCache: false });
    const order: string[] = [];
    const long = engine.complete([7, 8], { maxTokens: 200, stopTokenIds: [] }).then(() => order.push("long"));
    const options = { maxTokens: 4, stopTokenIds: [], blockSize: 32 };
    const wide = engine.complete(randomPrompt(1, 100), options);
    const choice = await wide.finally(() => order.push("wide"));
    await long;
    expect(order).toEqual(["wide", "long"]);
    // Alone it is the same.
    expect((await engine.complete(randomPrompt(1, 100), options)).ids).toEqual(choice.ids);
  });
});

describe("the counters of denoising", () => {
  it("leave AR decoding out", async () => {
    await using engine = await here(coder);
    const choice = await engine.complete([7, 8], { mode: "autoregressive", maxTokens: 6, stopTokenIds: [] });
    expect(choice.usage.denoisingSteps).toBe(6);
    const none = { denoisingSteps: 0, committedTokens: 0, remaskedTokens: 0, blocks: 0 };
    expect(engine.stats().counters).toMatchObject({ ...none, completionTokens: 6 });
    await engine.complete(randomPrompt(1, 8), { maxTokens: 8, stopTokenIds: [], blockSize: 4 });
    const some = { denoisingSteps: 8, committedTokens: 8, remaskedTokens: 0, blocks: 2 };
    expect(engine.stats().counters).toMatchObject({ ...some, completionTokens: 14 });
  });
});
