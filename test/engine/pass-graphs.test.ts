import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import type { StableDiffCoder } from "../../lib/checkpoint/index.js";
import type { GenerateOptions } from "../../lib/engine/index.js";
import { PagedKVCache } from "../../lib/engine/paged-kv-cache.js";
import { paddedAttention } from "../../lib/engine/pass/attention.js";
import { flashAttention } from "../../lib/engine/pass/flash-attention.js";
import { bucketed, exact, layOut, type PassPart, SCRATCH } from "../../lib/engine/pass/pass.js";
import { PassGraphs } from "../../lib/engine/pass-graphs.js";
import * as torch from "../../lib/torch/index.js";
import { heldTensors } from "../torch/held-tensors.js";
import { type Job, Reruns, runCore } from "./core-run.js";
import { randomPrompt, sharpCoder } from "./support.js";

let coder: StableDiffCoder;
beforeAll(() => {
  coder = sharpCoder();
});
afterAll(() => coder.dispose());

/** Requests of all kinds: more than decode at once, so that passes come in many sizes. */
const jobs: Job[] = Array.from({ length: 20 }, (_, i) => {
  const kind: GenerateOptions =
    i % 5 === 4
      ? { mode: "autoregressive" }
      : { blockSize: [1, 4, 8, 3][i % 4], commit: { rule: "threshold", value: 0.6 } };
  const options: GenerateOptions = { maxTokens: 5 + ((11 * i) % 60), seed: i, temperature: i % 2, ...kind };
  return { prompt: randomPrompt(i, 1 + ((13 * i) % 70)), options };
});
const options = { maxNumSeqs: 6, cacheTokens: 2048 };

describe("decoding passes padded to few shapes", () => {
  it.each([
    ["padded", { pageSize: 16 }],
    ["flash", { pageSize: 16 }],
    ["flash", { pageSize: 256 }],
    ["flash", { pageSize: 8, shift: true }],
  ] as const)("equal passes as they are, token for token: %s attention, %o", async (attention, more) => {
    const plain = await runCore(coder, jobs, {}, { ...options, ...more });
    const unpadded = await runCore(coder, jobs, { attention }, { ...options, ...more });
    const graphs = new Reruns();
    const { recorder } = graphs;
    const { ids, counters } = await runCore(coder, jobs, { attention, recorder }, { ...options, ...more });
    expect(unpadded.ids).toEqual(plain.ids);
    expect(ids).toEqual(plain.ids);
    expect(plain.counters.graphReplays).toBe(0);
    // Few shapes: most passes are replays.
    expect(counters.graphCaptures).toBeGreaterThan(2);
    expect(counters.graphReplays).toBeGreaterThan(counters.forwards / 2);
    expect(graphs.live).toBe(0);
  });

  it("with memory for two of them: pages go from one sequence to another", async () => {
    const tight = { cacheTokens: 192, pageSize: 8, maxNumSeqs: 16, prefixCache: false };
    const plain = await runCore(coder, jobs, {}, tight);
    const { ids, counters } = await runCore(
      coder,
      jobs,
      { attention: "flash", recorder: new Reruns().recorder },
      tight,
    );
    expect(ids).toEqual(plain.ids);
    expect(counters.preemptions).toBeGreaterThan(5);
    expect(counters.graphReplays).toBeGreaterThan(20);
  });

  it("a shape that cannot be recorded runs without, is told once and never tried again", async () => {
    const warn = vi.spyOn(process, "emitWarning").mockImplementation(() => {});
    try {
      let attempts = 0;
      const graphs = new Reruns();
      const recorder = () => ({
        ...graphs.recorder(),
        capture: () => {
          attempts++;
          throw new Error("operation not permitted");
        },
      });
      const one: Job[] = [{ prompt: randomPrompt(1, 9), options: { maxTokens: 40 } }];
      const plain = await runCore(coder, one, {}, options);
      const { ids, counters } = await runCore(coder, one, { attention: "padded", recorder }, options);
      expect(ids).toEqual(plain.ids);
      expect(counters).toMatchObject({ graphCaptures: 0, graphReplays: 0 });
      expect(attempts).toBeGreaterThan(0);
      expect(attempts).toBeLessThan(6);
      expect(warn.mock.calls.map(([message]) => String(message))).toEqual(
        Array.from({ length: attempts }, () => expect.stringContaining("operation not permitted")),
      );
      expect(new Set(warn.mock.calls.map((call) => JSON.stringify(call))).size).toBe(attempts);
      expect(graphs.live).toBe(0);
    } finally {
      warn.mockRestore();
    }
  });
});

describe("the recordings that are kept", () => {
  const part = (page: number, pages: number, tokens: number): PassPart => ({
    from: pages * 4 - tokens,
    to: pages * 4,
    stored: pages * 4 - tokens,
    pages: Array.from({ length: pages }, (_, i) => page + i),
    tokens: Int32Array.from(randomPrompt(page, pages * 4)),
    visible: () => pages * 4,
    rows: [pages * 4 - 1],
  });

  it("are bounded, and so is memory over any number of shapes", () => {
    const memory = new PagedKVCache(coder.model, { pages: 600, pageSize: 4, attention: "flash" });
    const graphs = new Reruns();
    const passes = new PassGraphs(coder.model, memory, graphs.recorder);
    const before = torch.memory();
    let most = 0;
    const visit = () => {
      for (const sequences of [1, 2, 4, 8, 16]) {
        for (const tokens of [1, 2, 4, 8, 16]) {
          for (const pages of [4, 8, 16, 32]) {
            const parts = Array.from({ length: sequences }, (_, s) => part(1 + s * pages, pages, tokens));
            for (let i = 0; i < 3; i++) torch.scope(() => void torch.noGrad(() => passes.forward(parts)));
            most = Math.max(most, graphs.live);
          }
        }
      }
    };
    visit();
    const once = torch.memory();
    expect(graphs.made).toBeGreaterThan(64);
    expect(most).toBeLessThanOrEqual(65); // one is made before another goes
    expect(graphs.live).toBe(64);
    expect(once.tensors - before.tensors).toBe(64);
    visit();
    expect(heldTensors()).toBe(once.tensors);
    passes.dispose();
    expect(graphs.live).toBe(0);
    expect(heldTensors()).toBe(before.tensors - 1);
    memory.dispose();
  });
});

describe("padding", () => {
  it("rounds up to few sizes, little above what is asked for", () => {
    const sizes = Array.from({ length: 1024 }, (_, i) => i + 1);
    for (const n of sizes) {
      const [fine, coarse] = [bucketed.fine(n), bucketed.coarse(n)];
      expect(fine).toBeGreaterThanOrEqual(n);
      expect(fine).toBeLessThanOrEqual(Math.max(n + 7, 1.25 * n));
      expect(bucketed.fine(fine)).toBe(fine);
      expect(coarse).toBeGreaterThanOrEqual(n);
      expect(coarse).toBeLessThan(2 * n);
      expect([exact.fine(n), exact.coarse(n)]).toEqual([n, n]);
    }
    expect(new Set(sizes.map(bucketed.fine)).size).toBeLessThan(30);
  });

  const anyParts = fc
    .array(fc.record({ length: fc.integer({ min: 1, max: 40 }), tokens: fc.integer({ min: 1, max: 12 }) }), {
      minLength: 1,
      maxLength: 9,
    })
    .chain((all) =>
      fc.record({
        all: fc.constant(all),
        pageSize: fc.integer({ min: 1, max: 9 }),
        block: fc.integer({ min: 1, max: 5 }),
      }),
    );

  const partsOf = ({
    all,
    pageSize,
    block,
  }: {
    all: { length: number; tokens: number }[];
    pageSize: number;
    block: number;
  }) => {
    let page = 1;
    return all.map(({ length, tokens }): PassPart => {
      const from = Math.max(0, length - tokens);
      return {
        ...{ from, to: length, stored: from, rows: [] },
        pages: Array.from({ length: Math.ceil(length / pageSize) }, () => page++),
        tokens: Int32Array.from({ length }, (_, i) => i),
        visible: (position) => Math.min((Math.floor(position / block) + 1) * block, length),
      };
    });
  };

  it("writes to the scratch page only, and leaves what the tokens are as it was", () => {
    fc.assert(
      fc.property(anyParts, (given) => {
        const parts = partsOf(given);
        const [plain, padded] = [exact, bucketed].map((rounding) => layOut(parts, given.pageSize, rounding));
        const count = plain.ids.length;
        for (const name of ["ids", "positions", "slots", "visible"] as const) {
          expect(padded[name].subarray(0, count)).toEqual(plain[name]);
        }
        for (const slot of padded.slots.subarray(count)) expect(Math.floor(slot / given.pageSize)).toBe(SCRATCH);
        for (const slot of plain.slots) expect(Math.floor(slot / given.pageSize)).not.toBe(SCRATCH);
      }),
    );
  });

  it.each([true, false])(
    "flash attention's runs hold every token once, with its own keys (in place: %s)",
    (inPlace) => {
      fc.assert(
        fc.property(anyParts, fc.constantFrom(exact, bucketed), (given, rounding) => {
          const { pageSize } = given;
          const pass = layOut(partsOf(given), pageSize, rounding);
          const { lists, sizes } = flashAttention(() => inPlace).describe(pass, pageSize, rounding);
          const { queryStarts, keyStarts, plainKeys, causalKeys } = lists;
          expect([queryStarts.length, keyStarts.length]).toEqual([sizes.runs + 1, sizes.runs + 1]);
          expect([queryStarts[0], queryStarts[sizes.runs]]).toEqual([0, pass.ids.length]);
          const real = pass.starts[pass.pages.length];
          for (let run = 0; run < sizes.runs; run++) {
            const [first, end] = [queryStarts[run], queryStarts[run + 1]];
            expect(end - first).toBeLessThanOrEqual(sizes.widest);
            expect(Math.min(plainKeys[run], causalKeys[run])).toBe(0);
            for (let token = first; token < end; token++) {
              const keys = causalKeys[run] > 0 ? causalKeys[run] - (end - 1 - token) : plainKeys[run];
              expect(keys).toBe(pass.visible[token]);
              if (token >= real) continue;
              const sequence = pass.pages.findIndex((_, s) => token < pass.starts[s + 1]);
              const held = Math.ceil(keys / pageSize);
              const at = keyStarts[run] / pageSize;
              const width = inPlace ? lists.table.length / sizes.runs : 0;
              const pages = inPlace ? lists.table.subarray(run * width) : lists.gathered.subarray(at);
              expect([...pages.subarray(0, held)]).toEqual(pass.pages[sequence].slice(0, held));
            }
          }
        }),
      );
    },
  );

  it("padded attention asks for every token once", () => {
    fc.assert(
      fc.property(anyParts, fc.constantFrom(exact, bucketed), (given, rounding) => {
        const pass = layOut(partsOf(given), given.pageSize, rounding);
        const { lists, sizes } = paddedAttention.describe(pass, given.pageSize, rounding);
        expect(lists.queryAt.length).toBe(sizes.sequences * sizes.widest);
        expect(lists.table.length).toBe(sizes.sequences * sizes.pagesEach);
        for (let token = 0; token < pass.starts[pass.pages.length]; token++) {
          expect(lists.queryAt[lists.backAt[token]]).toBe(token);
          expect(lists.seen[lists.backAt[token]]).toBe(pass.visible[token]);
        }
      }),
    );
  });
});
