import { Writable } from "node:stream";
import colors from "picocolors";
import { describe, expect, it, vi } from "vitest";
import { Canvas, type Cell, lastRows, paint, printable } from "../../lib/cli/canvas.js";
import { Screen } from "./screen.js";

vi.hoisted(() => {
  process.env.FORCE_COLOR = "1"; // before picocolors looks for a terminal
});

const letters = { decode: (ids: Iterable<number>) => String.fromCodePoint(...ids) };
const cell = (text: string, confidence: number | null = null): Cell => ({
  id: text.codePointAt(0) as number,
  masked: false,
  confidence,
});
const masked: Cell = { id: 0, masked: true, confidence: null };
const ESC = "\x1b";

describe("paint", () => {
  it("shows a shade for every masked token and the text of the others", () => {
    expect(paint([cell("a"), masked, masked, cell("b")], letters)).toBe(`a${colors.gray("▒▒")}b`);
  });

  it("colours by confidence, never across a line's end", () => {
    const { green, yellow, red } = colors;
    expect(paint([cell("a", 0.9), cell("b", 0.89), cell("c", 0.5), cell("d", 0.49)], letters)).toBe(
      `${green("a")}${yellow("bc")}${red("d")}`,
    );
    expect(paint([cell("a", 1), cell("\n", 1), cell("\n", 1), cell("b", 1)], letters)).toBe(
      `${green("a")}\n\n${green("b")}`,
    );
  });

  it("decodes neighbours of one style together, so that characters split over tokens come out whole", () => {
    const calls: number[][] = [];
    const decode = (ids: Iterable<number>) => {
      calls.push([...ids]);
      return "é";
    };
    paint([cell("x", 0.95), cell("y", 0.99), cell("z", 0.2)], { decode });
    expect(calls).toEqual([[120, 121], [122]]);
  });

  it("lets no control character of the model's reach the terminal", () => {
    const text = `a${ESC}[2Jb\rc\u0007d\u009be\tf\n`;
    expect(printable(text)).toBe("a␛[2Jb␍c␇d\ufffde\tf\n");
    expect(
      paint(
        [...text].map((character) => cell(character)),
        letters,
      ),
    ).toBe(printable(text));
  });
});

describe("lastRows", () => {
  it("keeps the end of what does not fit, counting wrapped lines", () => {
    expect(lastRows("one\ntwo\nthree", 80, 2)).toEqual({ text: "two\nthree", rows: 2 });
    expect(lastRows("0123456789", 4, 5)).toEqual({ text: "0123456789", rows: 3 });
    expect(lastRows("01234567", 4, 5).rows).toBe(2);
    expect(lastRows("", 80, 5)).toEqual({ text: "", rows: 1 });
    expect(lastRows("a\n", 80, 5)).toEqual({ text: "a\n", rows: 2 });
  });

  it("cuts the beginning of one line that fills the screen by itself, and keeps its colours", () => {
    expect(lastRows(`${ESC}[32mabcdefghij${ESC}[39m`, 4, 2)).toEqual({ text: `${ESC}[32mcdefghij${ESC}[39m`, rows: 2 });
  });

  it("counts columns: none for colours and marks, two for wide characters, four for a tab", () => {
    expect(lastRows(`${ESC}[32mabcd${ESC}[39m`, 4, 5).rows).toBe(1);
    expect(lastRows("日本語", 5, 5).rows).toBe(2);
    expect(lastRows("日本", 4, 5).rows).toBe(1);
    expect(lastRows("🙂🙂", 4, 5).rows).toBe(1);
    expect(lastRows("e\u0301e\u0301", 2, 5).rows).toBe(1);
    expect(lastRows("\tx", 4, 5)).toEqual({ text: "    x", rows: 2 });
  });
});

describe("Canvas", () => {
  function open(columns: number, rows: number) {
    const screen = new Screen(columns, rows);
    const stream = new Writable({
      write(chunk, _, done) {
        screen.write(String(chunk).replaceAll("\n", "\r\n")); // as a terminal's line discipline does
        done();
      },
    });
    return { screen, canvas: new Canvas(Object.assign(stream, { columns, rows }) as unknown as NodeJS.WriteStream) };
  }

  it("replaces each frame by the next, whether it grows, wraps or shrinks", () => {
    const { screen, canvas } = open(10, 8);
    screen.write("$ generate\r\n");
    for (const frame of ["one", "one\ntwo", "a long line that wraps\nx", "short"]) canvas.draw(frame);
    expect(screen.lines()).toEqual(["$ generate", "short"]);
    canvas.finish("the end");
    screen.write("$ ");
    expect(screen.lines()).toEqual(["$ generate", "the end", "$"]);
  });

  it("shows the end of a text that is longer than the screen, and all of it when it is finished", () => {
    const { screen, canvas } = open(10, 6);
    const lines = Array.from({ length: 12 }, (_, i) => `line ${i}`);
    for (let i = 1; i <= 12; i++) canvas.draw(lines.slice(0, i).join("\n"));
    expect(screen.lines()).toEqual(lines.slice(-4));
    canvas.finish(lines.join("\n"));
    expect([...screen.scrolledOut, ...screen.lines()]).toEqual(lines);
  });
});
