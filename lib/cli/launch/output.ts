import type { Writable } from "node:stream";
import { createColors } from "picocolors";

/** An output stream: process.stdout, process.stderr or a substitute. */
export type Screen = Writable & { isTTY?: boolean; columns?: number };

/** Interval of printing a progress bar that cannot be drawn in place, and interval of drawing it in place. */
const FRAME_SECONDS = 5;
const REDRAW_MS = 80;

const PAINTS = ["cyan", "yellow", "green", "magenta", "blue", "red"] as const;
const COLOUR = String.raw`\x1b\[[\d;]*m`;
const COLOURS = new RegExp(COLOUR, "g");
/** Escape sequences that move the cursor or erase would corrupt the output of other processes. Colors are kept. */
const CONTROLS = new RegExp(
  [
    String.raw`\x1b\[[0-?]*[ -/]*[@-ln-~]`, // cursor movements
    String.raw`\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)`, // titles and links
    String.raw`(?!${COLOUR})\x1b`,
    String.raw`[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]`,
  ].join("|"),
  "g",
);

/**
 * Merges the output of several processes, in whole lines with the rank of the process in front. On a terminal the
 * progress bar of the first process that draws one stays in the last row, below all lines.
 */
export class RankOutput {
  readonly #screens: { stdout: Screen; stderr: Screen };
  readonly #hasPrefix: boolean;
  /** The terminal with the row of the bar, if there is one. */
  readonly #terminal: Screen | undefined;
  /** Progress bars by process. */
  readonly #frames = new Map<number, string>();
  readonly #muted = new Set<Screen>();
  #isDrawn = false;
  #drawnAt = Number.NEGATIVE_INFINITY;
  #redraw: NodeJS.Timeout | undefined;

  constructor(screens: { stdout: Screen; stderr: Screen }, { prefix }: { prefix: boolean }) {
    this.#screens = screens;
    this.#hasPrefix = prefix;
    this.#terminal = [screens.stderr, screens.stdout].find(({ isTTY }) => isTTY);
  }

  /** One of the two streams of a process. */
  stream(rank: number, name: "stdout" | "stderr"): RankStream {
    const screen = this.#screens[name];
    const splitter = new LineSplitter();
    let framesFrom = performance.now() + FRAME_SECONDS * 1000;
    const show = (pieces: Piece[]): boolean => {
      let text = "";
      for (const piece of pieces) {
        if (!piece.isFrame) {
          this.#frames.delete(rank);
          text += this.#line(rank, piece.text, screen);
          framesFrom = performance.now() + FRAME_SECONDS * 1000;
        } else if (this.#terminal) {
          this.#frames.set(rank, piece.text);
        } else if (performance.now() >= framesFrom) {
          text += this.#line(rank, piece.text, screen);
          framesFrom = performance.now() + FRAME_SECONDS * 1000;
        }
      }
      return this.#print(screen, text);
    };
    return {
      screen,
      write: (chunk) => show(splitter.push(chunk)),
      end: () => {
        show(splitter.end());
        this.#frames.delete(rank);
        this.#print(screen, "");
      },
    };
  }

  /** Prints a message of the launcher on standard error. */
  say(text: string): void {
    this.#print(this.#screens.stderr, Buffer.from(`${text}\n`).toString("latin1"));
  }

  /** Stops printing to a screen that has no reader any more. */
  mute(screen: Screen): void {
    this.#muted.add(screen);
  }

  /** Removes the bar. */
  close(): void {
    this.#frames.clear();
    this.#draw();
  }

  #line(rank: number, text: string, screen: Screen): string {
    const shown = screen.isTTY ? text.replace(CONTROLS, "") : text;
    // a color must not extend into the next line
    const end = screen.isTTY && shown.includes("\x1b") ? "\x1b[0m\n" : "\n";
    return `${this.#prefix(rank, screen)}${shown}${end}`;
  }

  #prefix(rank: number, screen: Screen): string {
    if (!this.#hasPrefix) return "";
    const colors = createColors(isColoured(screen));
    return colors[PAINTS[rank % PAINTS.length]](`[${rank}] `);
  }

  /** @returns false if the screen's buffer is full */
  #print(screen: Screen, text: string): boolean {
    if (this.#muted.has(screen)) return true;
    if (text === "" || !screen.isTTY || this.#terminal === undefined) {
      const hasRoom = text === "" || screen.write(Buffer.from(text, "latin1"));
      this.#drawSoon();
      return hasRoom;
    }
    const erase = this.#isDrawn ? "\r\x1b[K" : "";
    this.#isDrawn = false;
    if (screen !== this.#terminal && erase !== "") this.#terminal.write(erase);
    const hasRoom = screen.write(Buffer.from(`${screen === this.#terminal ? erase : ""}${text}`, "latin1"));
    this.#draw();
    return hasRoom;
  }

  #drawSoon(): void {
    if (this.#terminal === undefined || this.#redraw !== undefined) return;
    if (this.#frames.size === 0 && !this.#isDrawn) return;
    const wait = this.#drawnAt + REDRAW_MS - performance.now();
    if (wait <= 0) this.#draw();
    else this.#redraw = setTimeout(() => this.#draw(), wait).unref();
  }

  #draw(): void {
    clearTimeout(this.#redraw);
    this.#redraw = undefined;
    const terminal = this.#terminal;
    if (terminal === undefined || this.#muted.has(terminal)) return;
    const [rank] = [...this.#frames.keys()].sort((a, b) => a - b);
    if (rank === undefined) {
      if (this.#isDrawn) terminal.write("\r\x1b[K");
      this.#isDrawn = false;
      return;
    }
    const bytes = (this.#frames.get(rank) ?? "").replace(CONTROLS, "").replace(COLOURS, "");
    const room = (terminal.columns ?? 80) - 1 - (this.#hasPrefix ? `[${rank}] `.length : 0);
    const text = [...Buffer.from(bytes, "latin1").toString("utf8")].slice(0, Math.max(0, room)).join("");
    terminal.write(`\r\x1b[K${this.#prefix(rank, terminal)}${text}`);
    this.#isDrawn = true;
    this.#drawnAt = performance.now();
  }
}

export interface RankStream {
  /** The screen of its lines. */
  screen: Screen;
  /** @returns false if the screen's buffer is full: wait for its "drain" */
  write(chunk: Buffer): boolean;
  end(): void;
}

/** The rule of the other commands: NO_COLOR, then FORCE_COLOR, then whether the stream is a terminal. */
function isColoured(screen: Screen): boolean {
  if (process.env.NO_COLOR) return false;
  return Boolean(process.env.FORCE_COLOR) || (Boolean(screen.isTTY) && process.env.TERM !== "dumb");
}

/** Maximum length of a line. Longer lines are split, so that memory use is bounded. */
const LONGEST = 64 * 1024;

/** A piece of output. A frame is a line that the next frame replaces, such as a progress bar. */
export interface Piece {
  text: string;
  isFrame: boolean;
}

/**
 * Splits a stream into lines. A carriage return ends a frame, a line feed a line; "\r " is a line feed. Bytes are kept
 * unchanged, one character each (latin1): they may be partial UTF-8 or not text at all.
 */
export class LineSplitter {
  #text = "";
  /** The current frame, which a line feed turns into a line. */
  #frame = "";

  push(chunk: Buffer): Piece[] {
    const pieces: Piece[] = [];
    const text = this.#text + chunk.toString("latin1");
    let start = 0;
    for (const { index, 0: end } of text.matchAll(/[\r\n]/g)) {
      this.#cut(text.slice(start, index), pieces);
      if (end === "\n") {
        pieces.push({ text: this.#text === "" ? this.#frame : this.#text, isFrame: false });
        this.#frame = "";
      } else if (this.#text !== "") {
        this.#frame = this.#text;
        pieces.push({ text: this.#frame, isFrame: true });
      }
      this.#text = "";
      start = index + 1;
    }
    this.#cut(text.slice(start), pieces);
    return pieces;
  }

  /** The remaining pieces at the end of the stream. */
  end(): Piece[] {
    const text = this.#text === "" ? this.#frame : this.#text;
    this.#text = "";
    this.#frame = "";
    return text === "" ? [] : [{ text, isFrame: false }];
  }

  #cut(text: string, pieces: Piece[]): void {
    let start = 0;
    for (; text.length - start > LONGEST; start += LONGEST) {
      pieces.push({ text: text.slice(start, start + LONGEST), isFrame: false });
    }
    this.#text = text.slice(start);
  }
}
