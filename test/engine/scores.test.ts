import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { StableDiffCoder } from "../../lib/checkpoint/index.js";
import { heldTensors } from "../torch/held-tensors.js";
import { here, randomPrompt, sharpCoder } from "./support.js";

let coder: StableDiffCoder;
beforeAll(() => {
  coder = sharpCoder();
});
afterAll(() => coder.dispose());

describe("scores", () => {
  it("wait their turn, and are given up with their signal", async () => {
    await using engine = await here(coder, { maxQueue: 1000 });
    const alone = await engine.score(randomPrompt(0, 60));
    const tensors = heldTensors();
    const order: string[] = [];
    const controllers = Array.from({ length: 200 }, () => new AbortController());
    const scores = controllers.map(({ signal }, i) =>
      engine.score(randomPrompt(i, 60), {}, { signal, onStart: () => order.push(`start ${i}`) }),
    );
    expect(engine.stats()).toMatchObject({ waiting: 200, waitingTokens: 200 * 60 });
    const generated = engine
      .complete(randomPrompt(1, 9), { maxTokens: 12, stopTokenIds: [] })
      .then(() => order.push("text"));
    for (const [i, controller] of controllers.entries()) if (i > 0) controller.abort(new Error(`left ${i}`));
    const ends = await Promise.allSettled(scores);
    expect(ends[0]).toMatchObject({ status: "fulfilled", value: alone });
    expect(ends.slice(1).map((end) => end.status === "rejected" && end.reason.message)).toEqual(
      controllers.slice(1).map((_, i) => `left ${i + 1}`),
    );
    expect(order.length).toBeLessThan(10); // what was given up was never begun
    await generated;
    expect(engine.stats()).toMatchObject({ running: 0, waiting: 0, waitingTokens: 0, counters: { scores: 2 } });
    expect(engine.stats().counters.finished).toMatchObject({ abort: 199, error: 0 });
    expect(heldTensors()).toBe(tensors);
  });

  it("let the batch go on between them", async () => {
    await using engine = await here(coder);
    const order: string[] = [];
    const scores = Array.from({ length: 40 }, (_, i) =>
      engine.score(randomPrompt(i, 30)).then(() => order.push("score")),
    );
    const text = engine.complete(randomPrompt(1, 9), { maxTokens: 8, stopTokenIds: [] }).then(() => order.push("text"));
    await Promise.all([...scores, text]);
    expect(order.indexOf("text")).toBeLessThan(40);
  });

  it("count against the limits of the queue, and end with the engine", async () => {
    const engine = await here(coder, { maxQueue: 2 });
    const scores = [engine.score(randomPrompt(1, 30)), engine.score(randomPrompt(2, 30))];
    const ends = Promise.allSettled(scores);
    await expect(engine.score(randomPrompt(3, 30))).rejects.toMatchObject({ code: "ENGINE_QUEUE_FULL" });
    await engine.close();
    for (const end of await ends) expect(end).toMatchObject({ status: "rejected", reason: { code: "ENGINE_CLOSED" } });
    await expect(engine.score([7])).rejects.toMatchObject({ code: "ENGINE_CLOSED" });
  });

  it("of a text that is given up before they begin", async () => {
    await using engine = await here(coder);
    const signal = AbortSignal.abort(new Error("gone"));
    await expect(engine.score([7, 8], {}, { signal })).rejects.toThrow("gone");
  });

  it("by the diffusion bound are given up between two passes", async () => {
    await using engine = await here(coder);
    const controller = new AbortController();
    const score = engine.score(
      randomPrompt(1, 200),
      { mode: "diffusion", mcSamples: 1024 },
      { signal: controller.signal, onStart: () => setTimeout(() => controller.abort(new Error("gone")), 5) },
    );
    await expect(score).rejects.toThrow("gone");
    expect((await engine.score([7, 8])).tokens).toBe(1);
  });
});
