/** Merges pairs of ids by byte-pair encoding: the pair with the lowest rank first, and the leftmost of equal ranks. */
export class PairMerger {
  /** Ranks of merges, by left id * stride + right id. */
  readonly #ranks = new Map<number, number>();
  readonly #stride: number;
  readonly #merged: Int32Array;

  /** @param merges ids of left, right and merged token, best first; of equal pairs the last one applies, as in Rust */
  constructor(merges: readonly (readonly [left: number, right: number, merged: number])[], highestId: number) {
    this.#stride = highestId + 1;
    this.#merged = Int32Array.from(merges, (merge) => merge[2]);
    for (const [rank, [left, right]] of merges.entries()) this.#ranks.set(left * this.#stride + right, rank);
  }

  /** Merges one short word in place. Takes quadratic time. */
  mergeShort(ids: number[]): number[] {
    const ranks = ids.slice(1).map((right, i) => this.#rank(ids[i], right));
    while (ranks.length > 0) {
      let best = 0;
      for (let i = 1; i < ranks.length; i++) if (ranks[i] < ranks[best]) best = i;
      if (ranks[best] === Number.POSITIVE_INFINITY) break;
      ids[best] = this.#merged[ranks[best]];
      ids.splice(best + 1, 1);
      ranks.splice(best, 1);
      if (best > 0) ranks[best - 1] = this.#rank(ids[best - 1], ids[best]);
      if (best < ranks.length) ranks[best] = this.#rank(ids[best], ids[best + 1]);
    }
    return ids;
  }

  /**
   * Merges one word of any length, with a heap of pairs by rank and position over a linked list, so that a run of a
   * million spaces takes a second instead of minutes.
   */
  merge(word: readonly number[]): number[] {
    const { length } = word;
    const ids = Int32Array.from(word);
    // Neighbors by position; -1 if there is none. A position that was merged into its left neighbor has the id -1.
    const next = Int32Array.from(word, (_, i) => (i + 1 < length ? i + 1 : -1));
    const previous = Int32Array.from(word, (_, i) => i - 1);
    const heap = new PairHeap();
    const offer = (left: number) => {
      const right = next[left];
      if (right < 0) return;
      const rank = this.#rank(ids[left], ids[right]);
      if (rank !== Number.POSITIVE_INFINITY) heap.push(rank, left);
    };
    for (let i = 0; i < length; i++) offer(i);
    for (let rank = heap.pop(); rank >= 0; rank = heap.pop()) {
      const left = heap.place;
      const right = next[left];
      if (ids[left] < 0 || right < 0) continue;
      // A pair may have changed since it was pushed. As in Rust, it is valid if it still merges to the same token.
      const now = this.#rank(ids[left], ids[right]);
      if (now === Number.POSITIVE_INFINITY || this.#merged[now] !== this.#merged[rank]) continue;
      ids[left] = this.#merged[rank];
      ids[right] = -1;
      next[left] = next[right];
      if (next[right] >= 0) previous[next[right]] = left;
      if (previous[left] >= 0) offer(previous[left]);
      offer(left);
    }
    return Array.from(ids.filter((id) => id >= 0));
  }

  #rank(left: number, right: number): number {
    return this.#ranks.get(left * this.#stride + right) ?? Number.POSITIVE_INFINITY;
  }
}

/** A binary heap of positions, ordered by rank, then by position. */
class PairHeap {
  readonly #ranks: number[] = [];
  readonly #places: number[] = [];
  /** Position of the last popped entry. */
  place = -1;

  push(rank: number, place: number): void {
    const ranks = this.#ranks;
    const places = this.#places;
    let at = ranks.length;
    ranks.push(rank);
    places.push(place);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (ranks[parent] < rank || (ranks[parent] === rank && places[parent] <= place)) break;
      ranks[at] = ranks[parent];
      places[at] = places[parent];
      at = parent;
    }
    ranks[at] = rank;
    places[at] = place;
  }

  /** Removes and returns the lowest rank; -1 if the heap is empty. */
  pop(): number {
    const ranks = this.#ranks;
    const places = this.#places;
    if (ranks.length === 0) return -1;
    const top = ranks[0];
    this.place = places[0];
    const rank = ranks.pop() as number;
    const place = places.pop() as number;
    const { length } = ranks;
    let at = 0;
    while (length > 0) {
      let child = 2 * at + 1;
      if (child >= length) break;
      const other = child + 1;
      if (
        other < length &&
        (ranks[other] < ranks[child] || (ranks[other] === ranks[child] && places[other] < places[child]))
      ) {
        child = other;
      }
      if (rank < ranks[child] || (rank === ranks[child] && place <= places[child])) break;
      ranks[at] = ranks[child];
      places[at] = places[child];
      at = child;
    }
    if (length > 0) {
      ranks[at] = rank;
      places[at] = place;
    }
    return top;
  }
}
