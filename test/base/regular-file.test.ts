import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { isDeeper, parseJsonText } from "../../lib/base/json-text.js";
import { FileError, openRegularFile, readRegularFile, readTextFile } from "../../lib/base/regular-file.js";
import { parseYaml } from "../../lib/base/yaml-text.js";

const root = mkdtempSync(join(tmpdir(), "diffcoder-files-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const problemOf = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    return error instanceof FileError ? `${error.problem}: ${error.message}` : String(error);
  }
  return "none";
};

describe("reading a file that a user named", () => {
  it("gives its bytes, through links, and those of files in /proc", () => {
    writeFileSync(join(root, "a"), "text\n");
    symlinkSync(join(root, "a"), join(root, "link"));
    expect(readTextFile(join(root, "link"))).toBe("text\n");
    expect(readRegularFile("/proc/self/stat").length).toBeGreaterThan(10);
    writeFileSync(join(root, "empty"), "");
    expect(readTextFile(join(root, "empty"))).toBe("");
    writeFileSync(join(root, "long"), Buffer.alloc(3 * 2 ** 20 + 7, "é"));
    expect(readRegularFile(join(root, "long")).equals(Buffer.alloc(3 * 2 ** 20 + 7, "é"))).toBe(true);
  });

  it("refuses pipes, sockets, devices, folders and loops of links at once", async () => {
    execFileSync("mkfifo", [join(root, "pipe")]);
    mkdirSync(join(root, "folder"));
    symlinkSync(join(root, "loop"), join(root, "loop"));
    const server = createServer().listen(join(root, "socket"));
    await new Promise((done) => server.once("listening", done));
    for (const read of [openRegularFile, readRegularFile, readTextFile]) {
      expect(problemOf(() => read(join(root, "pipe")))).toBe("not a file: it is a pipe, expected a regular file");
      expect(problemOf(() => read(join(root, "socket")))).toMatch(/^not a file: it is a socket/);
      expect(problemOf(() => read("/dev/zero"))).toMatch(/^not a file: it is a device/);
      expect(problemOf(() => read(join(root, "folder")))).toMatch(/^not a file: it is a folder/);
      expect(problemOf(() => read(join(root, "loop")))).toMatch(/^unreadable: its symbolic links form a cycle/);
      expect(problemOf(() => read(join(root, "none")))).toMatch(/^missing: the file does not exist/);
      expect(problemOf(() => read(join(root, "pipe", "x")))).toMatch(/^missing/);
    }
    await new Promise((done) => server.close(done));
  });

  it("says what is too large, and what is no UTF-8", () => {
    writeFileSync(join(root, "large"), Buffer.alloc(2 ** 20 + 1));
    expect(problemOf(() => readRegularFile(join(root, "large"), 2 ** 20))).toMatch(/^too large: .*limit is 1.0 MiB/);
    writeFileSync(join(root, "utf16"), Buffer.from("\ufeff{}", "utf16le"));
    expect(problemOf(() => readTextFile(join(root, "utf16")))).toBe(
      "not UTF-8: it is UTF-16 (little-endian) text, expected UTF-8",
    );
    writeFileSync(join(root, "latin"), Buffer.from("na\u00efve", "latin1"));
    expect(problemOf(() => readTextFile(join(root, "latin")))).toMatch(/byte 2 is invalid/);
    writeFileSync(join(root, "cut"), Buffer.from("ab\u20ac").subarray(0, 4));
    expect(problemOf(() => readTextFile(join(root, "cut")))).toMatch(/not UTF-8: .*byte 2/);
  });
});

describe("JSON that others wrote", () => {
  it("is bounded in depth and may begin with a byte order mark", () => {
    expect(parseJsonText('\ufeff{"a":[1]}')).toEqual({ a: [1] });
    expect(() => parseJsonText("[".repeat(20_000_000))).toThrow(/512 levels/);
    expect(() => parseJsonText("[".repeat(513) + "]".repeat(513))).toThrow(/512 levels/);
    expect(parseJsonText("[".repeat(512) + "]".repeat(512))).toBeInstanceOf(Array);
    expect(() => parseJsonText('"[[[')).toThrow(SyntaxError);
  });

  it("counts no brackets in strings", () => {
    expect(isDeeper('["[[[\\"[[[", "\\\\", ["]"]]', 2)).toBe(false);
    expect(isDeeper('["\\\\", [[]]]', 2)).toBe(true);
  });
});

describe("YAML that others wrote", () => {
  it("is read as the library reads it", () => {
    expect(parseYaml("a: &x { b: [1, 2e-3, null] }\nc: *x\n")).toEqual({
      a: { b: [1, 2e-3, null] },
      c: { b: [1, 2e-3, null] },
    });
  });

  it.each([
    [
      "Excessive alias",
      `a: &a [${"x,".repeat(9)}]\n${[..."bcdefgh"].map((c, i) => `${c}: &${c} [${`*${"abcdefg"[i]},`.repeat(9)}]`).join("\n")}`,
    ],
    ["an alias is cyclic", "a: &a [*a]"],
    ["an alias is cyclic", "a: &a { b: *a }"],
    ["Unresolved alias", "a: *b"],
    ["nested too deeply at line 1", "[".repeat(20_000)],
    ["the key a is repeated in a mapping, at line 2, column 1", "a: 1\na: 2"],
    ["longer than 256 KiB", "a: 1\n".repeat(60_000)],
    ["at line 3, column 8", "a: 1\nb:\n  - x: y: z"],
  ])("%s", (message, text) => {
    expect(() => parseYaml(text)).toThrow(message);
  });
});
