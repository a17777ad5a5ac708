import { DistributedError } from "../../distributed/errors.js";

/**
 * Distribution of a sequence's pieces over N ranks. "head-tail": 2N pieces, rank r gets pieces r and 2N - 1 - r, which
 * balances causal attention. "contiguous": N pieces, rank r gets piece r.
 */
export type PieceOrder = "head-tail" | "contiguous";

/** Options of {@link SequenceSplit}. */
export interface SequenceSplitOptions {
  batch: number;
  /** Positions per row. */
  length: number;
  /** Number of ranks. */
  size: number;
  /** B: blocks of this size are not split. 1 for causal attention. Default 1. */
  blockSize?: number;
  /**
   * Flat cumulative starts, over batch * length, of documents that do not attend to each other. Blocks count from the
   * document starts. Absent: each row is one document.
   */
  documents?: readonly number[];
  /** Default "head-tail". */
  order?: PieceOrder;
}

/** Positions [start, end) of a row. */
export interface Piece {
  start: number;
  end: number;
}

/**
 * A range of a rank's queries that attends to a whole range of another rank's keys. `query` and `key` are local
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

/** A piece and its offset within the local positions of its rank. */
interface Placed extends Piece {
  offset: number;
}

/** One row: its document starts followed by the row's end, and the pieces of each rank, ascending. */
interface Row {
  starts: readonly number[];
  ranks: readonly (readonly Placed[])[];
}

/**
 * The split of a batch of sequences over ranks, as index arithmetic without tensors. Each rank holds the same number of
 * positions of every row: its pieces in ascending order, followed by padding.
 *
 * Pieces start and end at block boundaries, which depend on the documents of each row. So within a rank, attention is
 * that of a separate sequence, see {@link documentsAt}; between ranks, a query attends to the keys of its document
 * before its piece, which form {@link Rectangle}s.
 */
export class SequenceSplit {
  readonly batch: number;
  readonly size: number;
  /** Local positions per row, on every rank. */
  readonly length: number;
  /** Whether all rows have the same split. */
  readonly uniform: boolean;
  readonly #rows: Row[];
  // Cached, because every layer needs the same rectangles.
  readonly #documents = new Map<number, number[] | null>();
  readonly #rectangles = new Map<string, Rectangle[]>();

  /** @throws DistributedError DISTRIBUTED_ARGUMENT if the documents do not match the rows */
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
   * The position in its row of each local position, row-major [batch, length], or [length] for a uniform split. It is 0
   * for padding.
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

  /** The local index of a row's position on a rank, or undefined if another rank holds it. */
  locate(rank: number, row: number, position: number): number | undefined {
    for (const { start, end, offset } of this.#row(row).ranks[rank]) {
      if (position >= start && position < end) return offset + position - start;
    }
    return undefined;
  }

  /**
   * The documents of a rank's positions as flat cumulative starts over batch * {@link length}; null if every row is one
   * document. Padding is a separate document.
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

  /** The ranges in which a rank's queries attend to another rank's keys; for block diffusion the clean keys. */
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
    // Only the document in which the piece starts has earlier keys on other ranks.
    const d = documentAt(starts, piece.start);
    const seen = theirs
      .map((other) => ({
        start: Math.max(other.start, starts[d]),
        end: Math.min(other.end, piece.start),
        offset: other.offset + Math.max(other.start, starts[d]) - other.start,
      }))
      .filter(({ start, end }) => start < end);
    if (seen.length === 0) continue;
    // Adjacent pieces form one range of local positions.
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

/** Splits a row into nearly equal pieces, at the block boundaries nearest to equal lengths, and distributes them. */
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

/** Index into `starts` of the document that contains a position. */
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

/** The document starts of each row, followed by its length. */
function startsOfRows(documents: readonly number[], batch: number, length: number): number[][] {
  const rows: number[][] = Array.from({ length: batch }, () => []);
  for (let i = 0; i + 1 < documents.length; i++) {
    const [start, end] = [documents[i], documents[i + 1]];
    const row = Math.floor(start / length);
    if (!(start < end) || row >= batch || end > (row + 1) * length) {
      throw new DistributedError(
        "DISTRIBUTED_ARGUMENT",
        `documents must be increasing and within rows of ${length} in a batch of ${batch}, got ${start}..${end}`,
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
