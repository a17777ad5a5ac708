import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { StopMatcher } from "../../lib/engine/sequence-output.js";

/** The text before the first stop string to be complete; of several at once before the longest. */
function plain(text: string, stops: string[]): { text: string; stop?: string } {
  for (let end = 1; end <= text.length; end++) {
    const hits = stops.filter((stop) => text.slice(0, end).endsWith(stop)).sort((a, b) => b.length - a.length);
    if (hits.length > 0) return { text: text.slice(0, end - hits[0].length), stop: hits[0] };
  }
  return { text };
}

describe("stop strings", () => {
  it("are found whatever the pieces, and nothing of them is given out", () => {
    const letters = fc.string({ unit: fc.constantFrom("a", "b", "c"), maxLength: 30 });
    const stop = fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(letters, fc.array(stop, { maxLength: 3 }), fc.array(fc.nat(5)), (text, stops, cuts) => {
        const expected = plain(text, stops);
        const matcher = new StopMatcher(stops);
        let given = "";
        let found: string | undefined;
        for (let at = 0, i = 0; at < text.length && found === undefined; i++) {
          const length = 1 + (cuts[i] ?? 0);
          const result = matcher.push(text.slice(at, at + length));
          given += result.text;
          found = result.stop;
          at += length;
          expect(expected.text.startsWith(given)).toBe(true);
        }
        if (found === undefined) given += matcher.flush();
        expect({ text: given, ...(found !== undefined && { stop: found }) }).toEqual(expected);
      }),
      { numRuns: 2000 },
    );
  });

  it("hold back no more than may still be one", () => {
    const matcher = new StopMatcher(["\n\n", "END"]);
    expect(matcher.push("x\n")).toEqual({ text: "x" });
    expect(matcher.push("y")).toEqual({ text: "\ny" });
    expect(matcher.push("EN")).toEqual({ text: "" });
    expect(matcher.push("D")).toEqual({ text: "", stop: "END" });
  });
});
