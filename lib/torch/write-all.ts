import { writeSync } from "node:fs";

/** Writes bytes at the end of an open file: the system may take fewer than it is given at a time. */
export function writeAll(descriptor: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(descriptor, bytes, done);
}
