import type { PrepareProgress } from "../data/index.js";

/** Shows how far the preparation of data is: in place on a terminal, nothing elsewhere, for it takes seconds. */
export function progressLine(stream: NodeJS.WriteStream = process.stderr): (progress: PrepareProgress) => void {
  if (!stream.isTTY) return () => {};
  // The carriage return at the end lets whatever is printed next replace the line.
  return ({ documents, bytes }) =>
    stream.write(`\r\x1b[Kreading: ${documents} documents, ${(bytes / 1e6).toFixed(1)} MB\r`);
}
