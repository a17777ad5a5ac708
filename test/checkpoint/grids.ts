import fc from "fast-check";
import type { Cut } from "./ranks.js";

interface Cell {
  offset: number[];
  size: number[];
}

/** How many parts each of one or two dimensions is cut into, and where. */
interface Lines {
  cuts: number[][];
}

/** Ways to cut a tensor of this shape into at most `most` cells, uneven ones and empty ones among them. */
export function gridOf(shape: readonly number[], most: number): fc.Arbitrary<Cell[]> {
  return linesOf(most).map((lines) => cellsOf(shape, lines));
}

/** Cuts as fractions of 0..1, so that they fit any shape. The product of the parts is at most `most`. */
function linesOf(most: number): fc.Arbitrary<Lines> {
  const parts = fc
    .tuple(fc.integer({ min: 1, max: most }), fc.integer({ min: 1, max: most }))
    .filter(([a, b]) => a * b <= most);
  return parts.chain(([a, b]) => {
    const line = (count: number) => fc.array(fc.double({ min: 0, max: 1, noNaN: true }), countOf(count - 1));
    return fc.tuple(line(a), line(b)).map((cuts) => ({ cuts }));
  });
}

const countOf = (count: number) => ({ minLength: count, maxLength: count });

function cellsOf(shape: readonly number[], { cuts }: Lines): Cell[] {
  let cells: Cell[] = [{ offset: [], size: [] }];
  for (const [d, length] of shape.entries()) {
    const inner = (cuts[d] ?? []).map((fraction) => Math.round(fraction * length)).sort((a, b) => a - b);
    const edges = [0, ...inner, length];
    cells = cells.flatMap(({ offset, size }) =>
      edges.slice(1).map((end, i) => ({ offset: [...offset, edges[i]], size: [...size, end - edges[i]] })),
    );
  }
  return cells;
}

/**
 * Ways in which `size` ranks can hold tensors: each tensor is cut by one of a few grids into at most as many cells as there
 * are ranks. Ranks past the cells hold a copy of one that another owns, or nothing.
 */
export function cutsOf(size: number): fc.Arbitrary<Cut> {
  const kinds = fc.array(fc.record({ lines: linesOf(size), spare: fc.boolean(), first: fc.nat(size - 1) }), {
    minLength: 1,
    maxLength: 4,
  });
  return kinds.map(
    (grids): Cut =>
      (name, shape, rank) => {
        const { lines, spare, first } = grids[hash(name) % grids.length];
        // A grid of two dimensions on a vector uses its first line only; what is left over is spare.
        const cells = cellsOf(shape, lines);
        const place = (rank + first) % size;
        const cell = cells[place % cells.length];
        const owned = place < cells.length;
        const empty = { offset: shape.map(() => 0), size: shape.map(() => 0) };
        return { slice: { shape, ...(owned || spare ? cell : empty) }, owned };
      },
  );
}

function hash(text: string): number {
  let value = 7;
  for (const letter of text) value = (value * 31 + letter.charCodeAt(0)) % 1_000_003;
  return value;
}
