/**
 * Packs items into bins by best fit, longest first: each goes into the bin with the least room that still holds it.
 * Equal inputs give equal bins. Finding a bin takes a look at a bitmap of the rooms there are, not at the bins.
 *
 * @param lengths of the items, each in [1, capacity]
 * @returns for each bin the items in it, by their index
 */
export function packBestFit(lengths: readonly number[], capacity: number): number[][] {
  const order = lengths.map((_, item) => item).sort((a, b) => lengths[b] - lengths[a] || a - b);
  const bins: number[][] = [];
  /** Bins by the room that is left in them. */
  const byRoom: number[][] = Array.from({ length: capacity + 1 }, () => []);
  const rooms = new Uint32Array(Math.ceil((capacity + 1) / 32));
  for (const item of order) {
    const length = lengths[item];
    let room = smallestRoom(rooms, length, capacity);
    let bin: number;
    if (room < 0) {
      bin = bins.push([]) - 1;
      room = capacity;
    } else {
      bin = byRoom[room].pop() as number;
      if (byRoom[room].length === 0) rooms[room >>> 5] &= ~(1 << (room & 31));
    }
    bins[bin].push(item);
    const left = room - length;
    byRoom[left].push(bin);
    rooms[left >>> 5] |= 1 << (left & 31);
  }
  return bins;
}

/** Packs items in their own order: a bin is closed when the next one does not fit. */
export function packSequentially(lengths: readonly number[], capacity: number): number[][] {
  const bins: number[][] = [];
  let room = 0;
  for (const [item, length] of lengths.entries()) {
    if (length > room) {
      bins.push([]);
      room = capacity;
    }
    bins[bins.length - 1].push(item);
    room -= length;
  }
  return bins;
}

/** The smallest set bit at or above `least`, -1 if there is none up to `capacity`. */
function smallestRoom(rooms: Uint32Array, least: number, capacity: number): number {
  for (let word = least >>> 5; word <= capacity >>> 5; word++) {
    let bits = rooms[word];
    if (word === least >>> 5) bits &= -1 << (least & 31);
    if (bits !== 0) return word * 32 + 31 - Math.clz32(bits & -bits);
  }
  return -1;
}
