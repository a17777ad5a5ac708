import { DistributedError } from "../../distributed/errors.js";

/**
 * How the pieces of a sequence go to the ranks. "head-tail": cut in 2N pieces, rank r gets pieces r and 2N - 1 - r, so
 * that causal attention costs all ranks the same. "contiguous": N pieces, rank r gets piece r.
 */
export type PieceOrder = "head-tail" | "contiguous";

/** Options of {@link SequenceSplit}. */
export interface SequenceSplitOptions {
  batch: number;
  /** Positions of a row. */
  length: number;
  /** Ranks. */
  size: number;
  /** B: no block is cut. 1 for causal attention. Default 1. */
  blockSize?: number;
  /**
   * Documents that do not see each other: flat cumulative starts over batch * length. Blocks count from their starts.
   * Absent: each row is one document.
   */
  documents?: readonly number[];
  /** Default "head-tail". */
  order?: PieceOrder;
}

/** Positions from `start` up to, not including, `end` of a row. */
export interface Piece {
  start: number;
  end: number;
}

/**
 * What some of a rank's queries see of another rank's keys: all of a run of them. `query` and `key` count local
 * positions.
 */
export interface Rectangle {
  row: number;
  rows: number;
  query: number;
  queries: number;
  key: number;
  keys: number;
}

/** A piece and where it lies among the positions of its rank. */
interface Placed extends Piece {
  offset: number;
}

/** One row: its documents' starts and the row's end; the pieces of each rank, ascending. */
interface Row {
  starts: readonly number[];
  ranks: readonly (readonly Placed[])[];
}

/**
 * A batch of sequences split over ranks, in numbers alone. Each rank holds the same number of positions of every row:
 * its pieces in ascending order, and where they are too few, some that stand for nothing.
 *
 * Pieces begin and end at a block's edge (which may differ from row to row with their documents), so a query sees the
 * keys of its own rank as if the rank's positions were a sequence of its own, see {@link documentsAt}, and of another
 * rank's keys those of its own document that lie before its piece: nothing but {@link Rectangle}s.
 */
export class SequenceSplit {
  readonly batch: number;
  readonly size: number;
  /** Local positions of a row, on every rank. */
  readonly length: number;
  /** Whether all rows are split alike. */
  readonly uniform: boolean;
  readonly #rows: Row[];
  // Every layer asks for the same.
  readonly #documents = new Map<number, number[] | null>();
  readonly #rectangles = new Map<string, Rectangle[]>();

  /** @throws DistributedError DISTRIBUTED_ARGUMENT when the documents do not fit the rows */
  constructor(options: SequenceSplitOptions) {
    const { batch, length, size, documents } = options;
    const starts = documents ? startsOfRows(documents, batch, length) : [[0, length]];
    this.batch = batch;
    this.size = size;
    this.uniform = starts.every((row) => row.length === 2);
    this.#rows = (this.uniform ? starts.slice(0, 1) : starts).map((row) => splitRow(row, options));
    this.length = Math.max(...this.#rows.flatMap(({ ranks }) => ranks.map(heldBy)));
  }

  /** The pieces of a row that a rank holds, ascending. */
  pieces(rank: number, row = 0): readonly Piece[] {
    return this.#row(row).ranks[rank].map(({ start, end }) => ({ start, end }));
  }

  /**
   * The place in its row of each local position, row-major [batch, length], or [length] when the split is uniform. Where
   * a position stands for nothing it is 0.
   */
  positions(rank: number): Int32Array {
    const positions = new Int32Array(this.#rows.length * this.length);
    for (const [row, { ranks }] of this.#rows.entries()) {
      for (const { start, end, offset } of ranks[rank]) {
        for (let i = start; i < end; i++) positions[row * this.length + offset + i - start] = i;
      }
    }
    return positions;
  }

  /** Where a position of a row lies among a rank's, or undefined if it is another rank's. */
  locate(rank: number, row: number, position: number): number | undefined {
    for (const { start, end, offset } of this.#row(row).ranks[rank]) {
      if (position >= start && position < end) return offset + position - start;
    }
    return undefined;
  }

  /**
   * The documents among a rank's positions as flat cumulative starts over batch * {@link length}; null when every row is
   * one. The positions that stand for nothing are a document of their own.
   */
  documentsAt(rank: number): readonly number[] | null {
    const known = this.#documents.get(rank);
    if (known !== undefined) return known;
    const found = this.#findDocuments(rank);
    this.#documents.set(rank, found);
    return found;
  }

  #findDocuments(rank: number): number[] | null {
    const rows = this.#rows.map(({ starts, ranks }) => {
      const cuts = [0];
      let last = -1;
      for (const { start, end, offset } of ranks[rank]) {
        for (let d = documentAt(starts, start); starts[d] < end; d++) {
          if (d !== last) cuts.push(offset + Math.max(starts[d], start) - start);
          last = d;
        }
      }
      cuts.push(heldBy(ranks[rank]), this.length);
      return cuts.filter((cut, i) => i === 0 || cut > cuts[i - 1]);
    });
    if (rows.every((cuts) => cuts.length === 2)) return null;
    const flat = Array.from({ length: this.batch }, (_, row) =>
      rows[this.uniform ? 0 : row].slice(0, -1).map((cut) => row * this.length + cut),
    ).flat();
    return [...flat, this.batch * this.length];
  }

  /** What a rank's queries see of the keys of another one; for block diffusion those are clean keys. */
  rectangles(rank: number, source: number): readonly Rectangle[] {
    const key = `${rank} ${source}`;
    const found = this.#rectangles.get(key) ?? this.#findRectangles(rank, source);
    this.#rectangles.set(key, found);
    return found;
  }

  #findRectangles(rank: number, source: number): Rectangle[] {
    const found: Rectangle[] = [];
    for (const [row, { starts, ranks }] of this.#rows.entries()) {
      for (const rectangle of rectanglesOfRow(starts, ranks[rank], ranks[source])) {
        const above = found.find((other) => other.row + other.rows === row && sameSpan(other, rectangle));
        if (above) above.rows++;
        else found.push({ row, rows: this.uniform ? this.batch : 1, ...rectangle });
      }
    }
    return found;
  }

  #row(row: number): Row {
    return this.#rows[this.uniform ? 0 : row];
  }
}

type Span = Omit<Rectangle, "row" | "rows">;

function rectanglesOfRow(starts: readonly number[], own: readonly Placed[], theirs: readonly Placed[]): Span[] {
  const found: Span[] = [];
  for (const piece of own) {
    // Only the document that the piece begins within has keys elsewhere that come before it.
    const d = documentAt(starts, piece.start);
    const seen = theirs
      .map((other) => ({
        start: Math.max(other.start, starts[d]),
        end: Math.min(other.end, piece.start),
        offset: other.offset + Math.max(other.start, starts[d]) - other.start,
      }))
      .filter(({ start, end }) => start < end);
    if (seen.length === 0) continue;
    // Ascending pieces with nothing left out between them: one run of local positions.
    const query = piece.offset;
    const queries = Math.min(piece.end, starts[d + 1]) - piece.start;
    const [key, keys] = [seen[0].offset, seen.reduce((sum, { start, end }) => sum + end - start, 0)];
    const last = found.at(-1);
    if (last && last.query + last.queries === query && last.key === key && last.keys === keys) last.queries += queries;
    else found.push({ query, queries, key, keys });
  }
  return found;
}

function sameSpan(a: Span, b: Span): boolean {
  return a.query === b.query && a.queries === b.queries && a.key === b.key && a.keys === b.keys;
}

/** Cuts a row near equal parts, each cut moved to the nearest edge of a block, and deals the pieces out. */
function splitRow(starts: readonly number[], options: SequenceSplitOptions): Row {
  const { length, size, blockSize = 1, order = "head-tail" } = options;
  const parts = order === "head-tail" ? 2 * size : size;
  const cuts = Array.from({ length: parts + 1 }, (_, part) => {
    if (part === parts) return length;
    const ideal = (part * length) / parts;
    const d = documentAt(starts, ideal);
    return Math.min(starts[d] + Math.round((ideal - starts[d]) / blockSize) * blockSize, starts[d + 1]);
  });
  const ranks = Array.from({ length: size }, (_, rank) => {
    const mine = order === "head-tail" ? [rank, parts - 1 - rank] : [rank];
    let offset = 0;
    return mine
      .map((part) => ({ start: cuts[part], end: cuts[part + 1] }))
      .filter(({ start, end }) => start < end)
      .map((piece) => {
        const placed = { ...piece, offset };
        offset += piece.end - piece.start;
        return placed;
      });
  });
  return { starts, ranks };
}

/** The document that a position lies in, as an index into `starts`. */
function documentAt(starts: readonly number[], position: number): number {
  let low = 0;
  let high = starts.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >>> 1;
    if (starts[middle] <= position) low = middle;
    else high = middle;
  }
  return low;
}

function heldBy(pieces: readonly Placed[]): number {
  return pieces.reduce((sum, { start, end }) => sum + end - start, 0);
}

/** Each row's own starts of documents, then its length. */
function startsOfRows(documents: readonly number[], batch: number, length: number): number[][] {
  const rows: number[][] = Array.from({ length: batch }, () => []);
  for (let i = 0; i + 1 < documents.length; i++) {
    const [start, end] = [documents[i], documents[i + 1]];
    const row = Math.floor(start / length);
    if (!(start < end) || row >= batch || end > (row + 1) * length) {
      throw new DistributedError(
        "DISTRIBUTED_ARGUMENT",
        `documents must rise and lie within rows of ${length} in a batch of ${batch}, got ${start}..${end}`,
      );
    }
    rows[row].push(start - row * length);
  }
  if (documents[0] !== 0 || documents.at(-1) !== batch * length) {
    throw new DistributedError("DISTRIBUTED_ARGUMENT", `documents must run from 0 to ${batch * length}`);
  }
  for (const starts of rows) starts.push(length);
  return rows;
}
