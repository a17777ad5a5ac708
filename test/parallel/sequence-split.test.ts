import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { SequenceSplit, type SequenceSplitOptions } from "../../lib/parallel/context/index.js";

/** Rows, their documents (or none), block size, ranks and order at random. */
const options: fc.Arbitrary<SequenceSplitOptions> = fc
  .record({ batch: fc.integer({ min: 1, max: 3 }), length: fc.integer({ min: 1, max: 60 }) })
  .chain(({ batch, length }) =>
    fc.record({
      batch: fc.constant(batch),
      length: fc.constant(length),
      size: fc.integer({ min: 1, max: 5 }),
      blockSize: fc.constantFrom(1, 2, 3, 4, 8, 32),
      order: fc.constantFrom("head-tail" as const, "contiguous" as const),
      documents: fc.option(
        fc.array(fc.integer({ min: 0, max: batch * length }), { maxLength: 10 }).map((cuts) => {
          const rows = Array.from({ length: batch + 1 }, (_, row) => row * length);
          return [...new Set([...rows, ...cuts])].sort((a, b) => a - b);
        }),
        { nil: undefined },
      ),
    }),
  );

/** A position of a row by the rank that holds it and its place there. */
function holders(split: SequenceSplit, row: number, length: number) {
  return Array.from({ length }, (_, position) => {
    const found = Array.from({ length: split.size }, (_, rank) => ({ rank, at: split.locate(rank, row, position) }));
    return found.filter(({ at }) => at !== undefined) as { rank: number; at: number }[];
  });
}

/** Start of each position's document, from flat boundaries over rows of `length`. */
function documentStarts(documents: readonly number[] | null | undefined, batch: number, length: number): number[] {
  const starts = documents ?? Array.from({ length: batch + 1 }, (_, row) => row * length);
  const at: number[] = [];
  for (let d = 0; d + 1 < starts.length; d++) for (let i = starts[d]; i < starts[d + 1]; i++) at[i] = starts[d];
  return at;
}

describe("SequenceSplit", () => {
  it("gives every position to one rank, in order, and no rank more than its share and the edges of blocks", () => {
    fc.assert(
      fc.property(options, (o) => {
        const split = new SequenceSplit(o);
        const { blockSize = 1 } = o;
        for (let row = 0; row < o.batch; row++) {
          const held = holders(split, row, o.length);
          expect(held.every((found) => found.length === 1)).toBe(true);
          for (let rank = 0; rank < o.size; rank++) {
            const mine = held.flatMap(([one], position) => (one.rank === rank ? [{ at: one.at, position }] : []));
            expect(mine.map(({ at }) => at)).toEqual(mine.map((_, i) => i));
            const flat = split.positions(rank).subarray(split.uniform ? 0 : row * split.length);
            for (const { at, position } of mine) expect(flat[at]).toBe(position);
          }
        }
        expect(split.length).toBeLessThanOrEqual(Math.ceil(o.length / o.size) + 2 * blockSize);
      }),
      { numRuns: 200, seed: 1 },
    );
  });

  it("wastes nothing where the pieces are whole blocks", () => {
    const split = new SequenceSplit({ batch: 2, length: 256, size: 4, blockSize: 32 });
    expect(split.length).toBe(64);
    expect(split.uniform).toBe(true);
    expect(split.pieces(1)).toEqual([
      { start: 32, end: 64 },
      { start: 192, end: 224 },
    ]);
    expect(split.documentsAt(1)).toBeNull();
    const contiguous = new SequenceSplit({ batch: 2, length: 256, size: 4, blockSize: 32, order: "contiguous" });
    expect(contiguous.pieces(1)).toEqual([{ start: 64, end: 128 }]);
  });

  it("costs all ranks the same by head and tail: as many pairs of queries and keys", () => {
    const pairs = (order: "head-tail" | "contiguous", rank: number) => {
      const split = new SequenceSplit({ batch: 1, length: 64, size: 4, order });
      const sources = [0, 1, 2, 3].filter((source) => source !== rank);
      const areas = sources.flatMap((source) => split.rectangles(rank, source)).map((r) => r.queries * r.keys);
      return areas.reduce((sum, area) => sum + area, 0);
    };
    expect(new Set([0, 1, 2, 3].map((rank) => pairs("head-tail", rank))).size).toBe(1);
    expect([0, 1, 2, 3].map((rank) => pairs("contiguous", rank))).toEqual([0, 256, 512, 768]);
  });

  it("lets every query see its document's earlier blocks and its own, once: own keys and rectangles", () => {
    fc.assert(
      fc.property(options, (o) => {
        const split = new SequenceSplit(o);
        const { batch, length, blockSize = 1 } = o;
        const globalStarts = documentStarts(o.documents, batch, length);
        const localStarts = Array.from({ length: o.size }, (_, rank) =>
          documentStarts(split.documentsAt(rank), batch, split.length),
        );
        for (let row = 0; row < batch; row++) {
          const held = holders(split, row, length).map(([one]) => one);
          const base = (rank: number) => localStarts[rank].slice(row * split.length, (row + 1) * split.length);
          for (const [query, { rank, at }] of held.entries()) {
            for (const [key, other] of held.entries()) {
              const start = globalStarts[row * length + query];
              const together = start === globalStarts[row * length + key];
              const block = (position: number) => Math.floor((position + row * length - start) / blockSize);
              const expected = !together
                ? "no"
                : block(key) < block(query)
                  ? "earlier"
                  : block(key) === block(query)
                    ? "own"
                    : "no";
              let actual = "no";
              if (other.rank === rank) {
                const [a, b] = [base(rank)[at], base(rank)[other.at]];
                const localBlock = (place: number) => Math.floor((place + row * split.length - a) / blockSize);
                if (a === b && localBlock(other.at) < localBlock(at)) actual = "earlier";
                if (a === b && localBlock(other.at) === localBlock(at)) actual = "own";
              } else {
                const seen = split.rectangles(rank, other.rank).filter((r) => {
                  const inside = (x: number, first: number, count: number) => x >= first && x < first + count;
                  return (
                    inside(row, r.row, r.rows) && inside(at, r.query, r.queries) && inside(other.at, r.key, r.keys)
                  );
                });
                if (seen.length > 1) throw new Error("seen twice");
                if (seen.length === 1) actual = "earlier";
              }
              if (actual !== expected) throw new Error(`row ${row}, ${query} sees ${key}: ${actual}, not ${expected}`);
            }
          }
        }
      }),
      { numRuns: 60, seed: 2 },
    );
  });

  it("refuses documents that do not fit the rows", () => {
    const split = (documents: number[]) => () => new SequenceSplit({ batch: 2, length: 8, size: 2, documents });
    for (const documents of [
      [0, 8],
      [0, 10, 16],
      [0, 5, 3, 8, 16],
      [0, 8, 17],
      [1, 8, 16],
      [0, 8, 16, 24],
    ]) {
      expect(split(documents)).toThrow(expect.objectContaining({ code: "DISTRIBUTED_ARGUMENT" }));
    }
  });
});
