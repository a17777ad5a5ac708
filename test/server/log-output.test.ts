import { execFileSync } from "node:child_process";
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { LogOutput } from "../../lib/server/index.js";

const folder = mkdtempSync(join(tmpdir(), "diffcoder-log-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function fifo(name: string): string {
  const path = join(folder, name);
  execFileSync("mkfifo", [path]);
  return path;
}

describe("the log's output", () => {
  it("does not wait for a pipe that nobody reads, and tells what was lost once somebody does", () => {
    const fd = openSync(fifo("unread"), constants.O_RDWR);
    const output = new LogOutput(fd, { maxWaiting: 100_000 });
    const lines = Array.from({ length: 1000 }, (_, i) => `${JSON.stringify({ i, text: "x".repeat(990) })}\n`);
    for (const line of lines) output.write(line);
    expect(output.dropped).toBeGreaterThan(500);
    const reader = openSync(join(folder, "unread"), constants.O_RDONLY | constants.O_NONBLOCK);
    const read = () => {
      const buffer = Buffer.alloc(2 ** 20);
      try {
        return buffer.toString("utf8", 0, readSync(reader, buffer));
      } catch {
        return "";
      }
    };
    let text = "";
    for (let i = 0; i < 5; i++) {
      text += read();
      output.write(`{"after":${i}}\n`);
    }
    text += read();
    const parsed = text
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(parsed.filter(({ i }) => i !== undefined)).toHaveLength(1000 - output.dropped);
    expect(
      parsed.filter(({ message }) => message?.startsWith(`${output.dropped} lines of the log were lost`)),
    ).toHaveLength(1);
    expect(parsed.filter(({ after }) => after !== undefined)).toHaveLength(5);
    output.close();
    closeSync(reader);
    closeSync(fd);
  });

  it("survives a full disk, a reader that is gone, and a write that takes a part", () => {
    const full = openSync("/dev/full", constants.O_WRONLY);
    const output = new LogOutput(full);
    for (let i = 0; i < 100; i++) output.write("line\n");
    expect(output.dropped).toBeGreaterThanOrEqual(100);
    closeSync(full);

    let room = 3;
    const taken: Buffer[] = [];
    const partial = new LogOutput((bytes) => {
      if (room < 0) throw Object.assign(new Error("broken"), { code: "EIO" });
      const part = bytes.subarray(0, room);
      room -= part.length;
      taken.push(Buffer.from(part));
      return part.length;
    });
    partial.write("hello\n");
    room = 100;
    partial.write("world\n");
    expect(Buffer.concat(taken).toString()).toBe("hello\nworld\n");
    room = -1;
    partial.write("lost\n");
    expect(partial.dropped).toBe(1);
    room = 1000;
    partial.write("again\n");
    expect(Buffer.concat(taken).toString()).toMatch(/1 lines of the log were lost[^\n]*\nagain\n$/);
  });
});
