import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  DECODERS,
  DEFAULTS,
  fromHash,
  RANGES,
  RULES,
  readNumber,
  stopStrings,
  TASKS,
  toHash,
} from "../../playground/src/settings.js";
import { eventData } from "../../playground/src/sse.js";

const number = (key: keyof typeof RANGES) => {
  const { min, max, integer, optional } = RANGES[key];
  const value = integer ? fc.integer({ min, max }) : fc.double({ min, max, noNaN: true });
  return optional ? fc.option(value) : value;
};

const settings = fc.record({
  task: fc.constantFrom(...TASKS),
  decoder: fc.constantFrom(...DECODERS),
  together: fc.boolean(),
  rule: fc.constantFrom(...RULES),
  stop: fc.string({ unit: "grapheme" }),
  blockSize: number("blockSize"),
  steps: number("steps"),
  threshold: number("threshold") as fc.Arbitrary<number>,
  factor: number("factor") as fc.Arbitrary<number>,
  bound: number("bound") as fc.Arbitrary<number>,
  maxTokens: number("maxTokens") as fc.Arbitrary<number>,
  temperature: number("temperature") as fc.Arbitrary<number>,
  topP: number("topP") as fc.Arbitrary<number>,
  topK: number("topK") as fc.Arbitrary<number>,
  seed: number("seed"),
  alternatives: number("alternatives") as fc.Arbitrary<number>,
});

const text = fc.string({ unit: "grapheme", maxLength: 40 });

describe("settings", () => {
  test("survive the way through an address", async () => {
    const texts = fc.record({ prompt: text, prefix: text, suffix: text, system: text, message: text });
    await fc.assert(
      fc.asyncProperty(settings, texts, async (given, words) => {
        const read = fromHash(`#${toHash(given, words)}`);
        // -0 is written as 0.
        expect(read.settings).toEqual(
          Object.fromEntries(Object.entries(given).map(([key, value]) => [key, Object.is(value, -0) ? 0 : value])),
        );
        expect(read.texts).toEqual(words);
      }),
    );
  });

  test("an address says only what differs, and nonsense in it says nothing", async () => {
    expect(toHash(DEFAULTS, fromHash("").texts)).toBe("");
    const { settings: read } = fromHash(
      "#task=steal&maxTokens=-1&temperature=NaN&topP=0&rule=none&seed=1.5&alternatives=3",
    );
    expect(read).toEqual({ ...DEFAULTS, alternatives: 3 });
    await fc.assert(fc.property(fc.string(), (hash) => void fromHash(hash)));
  });

  test("numbers and stop strings as they are typed", () => {
    expect(readNumber("", RANGES.seed)).toBeNull();
    expect(readNumber("", RANGES.maxTokens)).toBeUndefined();
    expect(readNumber("1e2", RANGES.maxTokens)).toBe(100);
    expect(readNumber("0x", RANGES.topK)).toBeUndefined();
    expect(stopStrings("\\n\\n\n\ndef \\\\n\n")).toEqual(["\n\n", "def \\n"]);
  });
});

describe("server-sent events", () => {
  const bytes = (parts: Uint8Array[]) =>
    new ReadableStream<Uint8Array>({
      start(controller) {
        for (const part of parts) controller.enqueue(part);
        controller.close();
      },
    });

  test("come out whole, wherever the network cuts them", async () => {
    const line = fc.string({ unit: "grapheme" }).map((each) => each.replace(/[\r\n]/g, "").trimStart());
    await fc.assert(
      fc.asyncProperty(
        fc.array(line),
        fc.constantFrom("\n", "\r\n"),
        fc.array(fc.nat(40)),
        async (events, end, cuts) => {
          const all = new TextEncoder().encode(
            events.map((each) => `: comment${end}data: ${each}${end}${end}`).join(""),
          );
          const parts: Uint8Array[] = [];
          let from = 0;
          for (const cut of cuts) {
            parts.push(all.subarray(from, from + cut));
            from += cut;
          }
          parts.push(all.subarray(from));
          const read: string[] = [];
          for await (const data of eventData(bytes(parts))) read.push(data);
          expect(read).toEqual(events);
        },
      ),
    );
  });
});
