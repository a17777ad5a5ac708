import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Decoder } from "../../lib/model/index.js";
import { type SamplerCase, samplerCases, tinyModel } from "../diffusion/fixture.js";
import { decodeAutoregressive, decodeBlocks, type ReferenceBlockOptions } from "./sampler.js";

let model: Decoder;
beforeAll(async () => {
  model = await tinyModel();
});
afterAll(() => model.dispose());

const optionsOf = (c: SamplerCase): ReferenceBlockOptions => ({
  ...{ maxTokens: c.maxTokens, blockSize: c.size, shift: c.shift },
  commit: c.threshold === undefined ? { rule: "static", steps: c.steps } : { rule: "threshold", value: c.threshold },
});

describe("the oracle equals transformers without a cache", () => {
  it.each(samplerCases)("$name", (c) => {
    for (const mode of [{ cache: false }, { cache: true }, { cache: true, prefillChunk: 4 }]) {
      const options = { ...optionsOf(c), ...mode };
      const whole = decodeBlocks(model, c.prompt, options);
      expect(whole.ids).toEqual(c.tokens);
      expect(whole.commits).toEqual(c.commits);
      const stopped = decodeBlocks(model, c.prompt, { ...options, stopTokenIds: c.stop });
      expect(stopped).toMatchObject({ ids: c.stopped, stopId: c.stopId });
      expect(stopped.commits).toHaveLength(c.stoppedForwards);
      expect(decodeAutoregressive(model, c.prompt, { maxTokens: c.maxTokens, ...mode }).ids).toEqual(c.autoregressive);
    }
  });
});

it("the oracle's cache changes nothing, for any prompt and options", async () => {
  // In float64, where rounding does not decide a near tie one way here and the other way there.
  const exact = await tinyModel("diffusion", "float64");
  fc.assert(
    fc.property(
      fc.record({
        prompt: fc.array(fc.integer({ min: 6, max: 47 }), { minLength: 1, maxLength: 13 }),
        maxTokens: fc.integer({ min: 1, max: 14 }),
        blockSize: fc.integer({ min: 1, max: 6 }),
        steps: fc.integer({ min: 1, max: 6 }),
        temperature: fc.constantFrom(0, 0.7),
        seed: fc.nat(1000),
        shift: fc.boolean(),
        prefillChunk: fc.integer({ min: 1, max: 12 }),
      }),
      ({ prompt, steps, ...rest }) => {
        const options: ReferenceBlockOptions = { ...rest, commit: { rule: "static", steps } };
        const plain = decodeBlocks(exact, prompt, options);
        const cached = decodeBlocks(exact, prompt, { ...options, cache: true });
        expect([cached.ids, cached.commits]).toEqual([plain.ids, plain.commits]);
      },
    ),
    { numRuns: 40 },
  );
  exact.dispose();
});
