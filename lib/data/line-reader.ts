import { closeSync, openSync, readSync } from "node:fs";

const CHUNK = 1 << 20;

/** The lines of a file as bytes, without their ends; memory holds a mebibyte and the longest line, not the file. */
export function* readLines(path: string): Generator<Uint8Array> {
  const file = openSync(path, "r");
  try {
    const chunk = Buffer.allocUnsafe(CHUNK);
    let rest: Buffer[] = [];
    for (let count = readSync(file, chunk); count > 0; count = readSync(file, chunk)) {
      let start = 0;
      for (let end = chunk.indexOf(10, start); end >= 0 && end < count; end = chunk.indexOf(10, start)) {
        yield Buffer.concat([...rest, chunk.subarray(start, end)]);
        rest = [];
        start = end + 1;
      }
      if (start < count) rest.push(Buffer.from(chunk.subarray(start, count)));
    }
    if (rest.length > 0) yield Buffer.concat(rest);
  } finally {
    closeSync(file);
  }
}
