import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { serialize } from "node:v8";
import { describe, expect, it } from "vitest";
import { Philox } from "../../lib/torch/index.js";
import { FrameReader, FrameWriter } from "../../lib/worker/frames.js";

/** What a writer writes, once it has all been written. */
async function written(values: readonly unknown[]): Promise<Buffer> {
  const folder = mkdtempSync(join(tmpdir(), "diffcoder-frames-"));
  const path = join(folder, "stream");
  const fd = openSync(path, "w");
  try {
    const writer = new FrameWriter(fd);
    for (const value of values) writer.write(value);
    const length = values.reduce<number>((sum, value) => sum + 4 + serialize(value).length, 0);
    while (statSync(path).size < length) await sleep(2);
    return readFileSync(path);
  } finally {
    closeSync(fd);
    rmSync(folder, { recursive: true });
  }
}

const values: unknown[] = [
  { kind: "reports", reports: [{ key: 1, events: [{ text: "naïve 🦉", ids: [1, 2] }], last: false }] },
  undefined,
  new Int32Array([1, -1]),
  "x".repeat(70_000),
  { a: Number.NaN, b: [null, -0] },
];

describe("frames", () => {
  it("come back as they were, in order, however the bytes are cut", async () => {
    const bytes = await written(values);
    for (let seed = 0; seed < 20; seed++) {
      const random = new Philox(seed, 1);
      const reader = new FrameReader();
      const back: unknown[] = [];
      for (let at = 0; at < bytes.length; ) {
        const size = 1 + random.below([1, 7, 1000, bytes.length][seed % 4]);
        back.push(...reader.push(bytes.subarray(at, at + size)));
        at += size;
      }
      expect(back).toEqual(values);
    }
  });

  it("byte by byte, and all at once", async () => {
    const bytes = await written(values.slice(0, 3));
    const reader = new FrameReader();
    expect([...bytes].flatMap((byte) => reader.push(Buffer.from([byte])))).toEqual(values.slice(0, 3));
    expect(new FrameReader().push(bytes)).toEqual(values.slice(0, 3));
  });
});
