import { Writable } from "node:stream";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { LineSplitter, type Screen as Output, type Piece, RankOutput } from "../../lib/cli/launch/output.js";
import { Screen } from "../cli/screen.js";

/** Stands for a stream of the launcher's, and keeps what is written. */
class Kept extends Writable {
  readonly isTTY: boolean;
  readonly columns = 40;
  readonly writes: Buffer[] = [];

  constructor(isTTY = false) {
    super({ highWaterMark: 1 << 20 });
    this.isTTY = isTTY;
  }

  override _write(chunk: Buffer, _: BufferEncoding, done: () => void): void {
    this.writes.push(chunk);
    done();
  }

  get bytes(): Buffer {
    return Buffer.concat(this.writes);
  }

  get text(): string {
    return this.bytes.toString("utf8");
  }
}

/** All that a splitter makes of chunks. */
function split(chunks: readonly Buffer[]): Piece[] {
  const splitter = new LineSplitter();
  return [...chunks.flatMap((chunk) => splitter.push(chunk)), ...splitter.end()];
}

/** Cuts bytes at the given places. */
function cutAt(bytes: Buffer, places: readonly number[]): Buffer[] {
  const ends = [...places.map((place) => place % (bytes.length + 1)), 0, bytes.length].sort((a, b) => a - b);
  return ends.slice(1).map((end, i) => bytes.subarray(ends[i], end));
}

const lines = (pieces: readonly Piece[]) => pieces.filter(({ isFrame }) => !isFrame).map(({ text }) => text);

describe("the cutting into lines", () => {
  it("knows lines, frames, and both kinds of line ends", () => {
    const pieces = split([Buffer.from("a\r\nb\n\n10%\r20%\r\nrest")]);
    expect(pieces.map(({ text, isFrame }) => (isFrame ? `(${text})` : text))).toEqual([
      "(a)",
      "a",
      "b",
      "",
      "(10%)",
      "(20%)",
      "20%",
      "rest",
    ]);
  });

  it("lets the last frame stand that nothing replaced, and drops the replaced ones", () => {
    expect(lines(split([Buffer.from("\r 0%\r50%\r100%\ndone\n")]))).toEqual(["100%", "done"]);
    expect(lines(split([Buffer.from("50%\r")]))).toEqual(["50%"]);
    expect(lines(split([Buffer.from("50%\rdone\n")]))).toEqual(["done"]);
  });

  it("does not depend on how the bytes come", () => {
    const byte = fc.oneof(fc.constantFrom(10, 13), fc.integer({ min: 0, max: 255 }));
    fc.assert(
      fc.property(fc.array(byte, { maxLength: 60 }), fc.array(fc.nat(60)), (values, places) => {
        const bytes = Buffer.from(values);
        expect(split(cutAt(bytes, places))).toEqual(split([bytes]));
      }),
      { numRuns: 500 },
    );
  });

  it("gives back every byte of what has no carriage return", () => {
    const byte = fc.oneof(fc.constant(10), fc.integer({ min: 0, max: 255 })).filter((value) => value !== 13);
    fc.assert(
      fc.property(fc.array(byte, { maxLength: 200 }), (values) => {
        const bytes = Buffer.from([...values, 10]);
        const text = lines(split([bytes]))
          .map((line) => `${line}\n`)
          .join("");
        expect(Buffer.from(text, "latin1")).toEqual(bytes);
      }),
    );
  });

  it("cuts a line without end, and loses nothing", () => {
    const pieces = split(cutAt(Buffer.alloc(300_000, "x"), [1000, 100_000, 250_001]));
    for (const { text } of pieces) expect(text.length).toBeLessThanOrEqual(65_536);
    expect(lines(pieces).join("").length).toBe(300_000);
  });
});

describe("output that goes to a file", () => {
  const open = (prefix = true) => {
    const stdout = new Kept();
    const stderr = new Kept();
    return {
      stdout,
      stderr,
      output: new RankOutput({ stdout, stderr } as { stdout: Output; stderr: Output }, { prefix }),
    };
  };
  beforeEach(() => {
    vi.stubEnv("FORCE_COLOR", undefined);
    vi.stubEnv("NO_COLOR", undefined);
  });
  afterEach(() => {
    vi.unstubAllEnvs();
    vi.useRealTimers();
  });

  it("has the rank before every line, and an end after the last", () => {
    const { stdout, stderr, output } = open();
    const [a, b, c] = [output.stream(0, "stdout"), output.stream(12, "stdout"), output.stream(0, "stderr")];
    a.write(Buffer.from("one\ntw"));
    b.write(Buffer.from("eins\n"));
    c.write(Buffer.from("oh\n"));
    a.write(Buffer.from("o\nthree"));
    for (const stream of [a, b, c]) stream.end();
    expect(stdout.text).toBe("[0] one\n[12] eins\n[0] two\n[0] three\n");
    expect(stderr.text).toBe("[0] oh\n");
  });

  it("keeps lines whole, whoever writes and however the bytes come", () => {
    const line = fc.string({ unit: "binary", maxLength: 12 }).map((text) => text.replace(/[\r\n]/g, "-"));
    const program = fc.tuple(fc.array(line, { maxLength: 6 }), fc.array(fc.nat(100), { maxLength: 6 }));
    fc.assert(
      fc.property(
        fc.array(program, { minLength: 1, maxLength: 4 }),
        fc.infiniteStream(fc.nat(3)),
        (programs, turns) => {
          const { stdout, output } = open();
          const waiting = programs.map(([own, places], rank) => ({
            stream: output.stream(rank, "stdout"),
            chunks: cutAt(Buffer.from(own.map((text) => `${text}\n`).join("")), places),
          }));
          while (waiting.some(({ chunks }) => chunks.length > 0)) {
            const left = waiting.filter(({ chunks }) => chunks.length > 0);
            const { stream, chunks } = left[Number(turns.next().value) % left.length];
            stream.write(chunks.shift() as Buffer);
          }
          for (const { stream } of waiting) stream.end();
          const printed = stdout.text.split("\n").slice(0, -1);
          for (const [rank, [own]] of programs.entries()) {
            const prefix = `[${rank}] `;
            const of = printed.filter((text) => text.startsWith(prefix)).map((text) => text.slice(prefix.length));
            expect(of).toEqual(own.map((text) => Buffer.from(text).toString()));
          }
        },
      ),
    );
  });

  it("leaves bytes that are no text as they are", () => {
    const { stdout, output } = open(false);
    const garbage = Buffer.from([...Array(256).keys()].filter((byte) => byte !== 10 && byte !== 13));
    const stream = output.stream(0, "stdout");
    stream.write(garbage);
    stream.end();
    expect(stdout.bytes).toEqual(Buffer.concat([garbage, Buffer.from("\n")]));
  });

  it("shows of a progress bar every few seconds how far it is, and how it ended", () => {
    vi.useFakeTimers();
    const { stderr, output } = open();
    const stream = output.stream(3, "stderr");
    for (let percent = 0; percent <= 100; percent++) {
      stream.write(Buffer.from(`\r${percent}%`));
      vi.advanceTimersByTime(200);
    }
    stream.write(Buffer.from("\n"));
    stream.end();
    const shown = stderr.text.trim().split("\n");
    expect(shown.at(-1)).toBe("[3] 100%");
    expect(shown.length).toBe(5);
  });

  it("prints nothing to who does not read", () => {
    const { stdout, stderr, output } = open();
    output.mute(stdout as Output);
    const stream = output.stream(0, "stdout");
    expect(stream.write(Buffer.from("x\n"))).toBe(true);
    output.say("still here");
    expect([stdout.text, stderr.text]).toEqual(["", "still here\n"]);
  });
});

// What may reach a terminal of a program's control sequences, and what may not.
// biome-ignore lint/suspicious/noControlCharactersInRegex: control sequences are what is looked for
const ALLOWED = /\x1b\[[\d;]*[mK]/g;
// biome-ignore lint/suspicious/noControlCharactersInRegex: control sequences are what is looked for
const CONTROL = /[\x00-\x08\x0b\x0c\x0e-\x1f]/;

describe("output that goes to a terminal", () => {
  /** Both streams are one terminal. */
  const open = () => {
    const terminal = new Kept(true);
    const output = new RankOutput({ stdout: terminal, stderr: terminal } as { stdout: Output; stderr: Output }, {
      prefix: true,
    });
    const screen = () => {
      const seen = new Screen(40, 12);
      seen.write(terminal.text.replaceAll("\n", "\r\n")); // as a terminal's driver does
      expect(seen.unknown).toEqual([]);
      return seen.lines();
    };
    return { terminal, output, screen };
  };
  beforeEach(() => {
    vi.stubEnv("NO_COLOR", undefined);
    vi.useFakeTimers();
  });
  afterEach(() => {
    vi.unstubAllEnvs();
    vi.useRealTimers();
  });

  it("colours prefixes, unless NO_COLOR is set", () => {
    const { terminal, output } = open();
    output.stream(0, "stdout").write(Buffer.from("a\n"));
    output.stream(1, "stdout").write(Buffer.from("b\n"));
    expect(terminal.text).toBe("\x1b[36m[0] \x1b[39ma\n\x1b[33m[1] \x1b[39mb\n");
    vi.stubEnv("NO_COLOR", "1");
    const plain = open();
    plain.output.stream(0, "stdout").write(Buffer.from("a\n"));
    expect(plain.terminal.text).toBe("[0] a\n");
  });

  it("keeps the first rank's progress bar in the last row, below everybody's lines", () => {
    const { output, screen } = open();
    const bar = output.stream(0, "stderr");
    const other = output.stream(1, "stdout");
    for (let percent = 0; percent <= 60; percent += 10) {
      bar.write(Buffer.from(`\r${"━".repeat(percent / 10)} ${percent}%`));
      other.write(Buffer.from(`line ${percent}\n`));
      vi.advanceTimersByTime(100);
    }
    // A program that draws by going back shows a frame when the next one begins.
    expect(screen()).toEqual([...[0, 10, 20, 30, 40, 50, 60].map((n) => `[1] line ${n}`), "[0] ━━━━━ 50%"]);
    bar.write(Buffer.from("\rdone\n"));
    other.write(Buffer.from("after\n"));
    expect(screen().slice(-3)).toEqual(["[1] line 60", "[0] done", "[1] after"]);
    output.close();
  });

  it("shows one bar of several, cut to the row, and takes it away", () => {
    const { output, screen } = open();
    const [a, b] = [output.stream(2, "stderr"), output.stream(1, "stderr")];
    a.write(Buffer.from("two\r"));
    vi.advanceTimersByTime(100);
    expect(screen()).toEqual(["[2] two"]);
    b.write(Buffer.from(`${"1".repeat(100)}\r`));
    vi.advanceTimersByTime(100);
    expect(screen()).toEqual([`[1] ${"1".repeat(35)}`]);
    b.end();
    vi.advanceTimersByTime(100);
    expect(screen()).toEqual([`[1] ${"1".repeat(40 - 4)}`, "1".repeat(64).slice(0, 40), "1".repeat(24), "[2] two"]);
    output.close();
    expect(screen().at(-1)).not.toBe("[2] two");
  });

  it("draws often enough to be seen, not as often as it is told to", () => {
    const { terminal, output } = open();
    const bar = output.stream(0, "stderr");
    for (let i = 0; i < 1000; i++) bar.write(Buffer.from(`${i}\r`));
    expect(terminal.writes.length).toBe(1);
    vi.advanceTimersByTime(100);
    expect(terminal.writes.length).toBe(2);
    expect(terminal.text).toMatch(/999$/);
  });

  it("lets no program move the cursor, erase, or leave its colour behind", () => {
    const { terminal, output, screen } = open();
    const stream = output.stream(0, "stdout");
    stream.write(Buffer.from("kept\n\x1b[2A\x1b[2J\x1b]0;title\x07\x1b[31mred\x1b\x07\x00\n\x1b[?25lhidden\n"));
    expect(screen()).toEqual(["[0] kept", "[0] red", "[0] hidden"]);
    expect(terminal.text).toContain("\x1b[31mred\x1b[0m\n");
  });

  it("survives anything that is written", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        const { terminal, output } = open();
        const stream = output.stream(0, "stdout");
        stream.write(Buffer.from(bytes));
        stream.end();
        output.close();
        const rest = terminal.bytes.toString("latin1").replaceAll(ALLOWED, "");
        expect(rest).not.toMatch(CONTROL);
      }),
    );
  });
});
