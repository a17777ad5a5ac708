import type { Writable } from "node:stream";
import { createColors } from "picocolors";

/** Where it is printed: process.stdout and process.stderr, or what stands for them. */
export type Screen = Writable & { isTTY?: boolean; columns?: number };

/** How often a progress bar is printed where it cannot be drawn in place, and how often it is drawn where it can. */
const FRAME_SECONDS = 5;
const REDRAW_MS = 80;

const PAINTS = ["cyan", "yellow", "green", "magenta", "blue", "red"] as const;
const COLOUR = String.raw`\x1b\[[\d;]*m`;
const COLOURS = new RegExp(COLOUR, "g");
/** Sequences that move the cursor or erase would tear what other processes wrote. Colours stay. */
const CONTROLS = new RegExp(
  [
    String.raw`\x1b\[[0-?]*[ -/]*[@-ln-~]`, // of the cursor
    String.raw`\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)`, // titles and links
    String.raw`(?!${COLOUR})\x1b`,
    String.raw`[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]`,
  ].join("|"),
  "g",
);

/**
 * Prints what several processes print, line by line, each line whole and with its process's number in front. On a terminal
 * the progress bar of the first process that draws one stays in the last row, below the lines of all.
 */
export class RankOutput {
  readonly #screens: { stdout: Screen; stderr: Screen };
  readonly #hasPrefix: boolean;
  /** The terminal that has the row of the bar, if one is there. */
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

  /** The launcher's own words, on standard error. */
  say(text: string): void {
    this.#print(this.#screens.stderr, Buffer.from(`${text}\n`).toString("latin1"));
  }

  /** Prints no more there: nobody reads it. */
  mute(screen: Screen): void {
    this.#muted.add(screen);
  }

  /** Takes the bar away. */
  close(): void {
    this.#frames.clear();
    this.#draw();
  }

  #line(rank: number, text: string, screen: Screen): string {
    const shown = screen.isTTY ? text.replace(CONTROLS, "") : text;
    const end = screen.isTTY && shown.includes("\x1b") ? "\x1b[0m\n" : "\n"; // a colour must not run into the next line
    return `${this.#prefix(rank, screen)}${shown}${end}`;
  }

  #prefix(rank: number, screen: Screen): string {
    if (!this.#hasPrefix) return "";
    const colors = createColors(isColoured(screen));
    return colors[PAINTS[rank % PAINTS.length]](`[${rank}] `);
  }

  /** @returns false if the screen takes no more for now */
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
  /** Where its lines go. */
  screen: Screen;
  /** @returns false if the screen takes no more for now: wait for its "drain" */
  write(chunk: Buffer): boolean;
  end(): void;
}

/** As the rest of the command line decides: NO_COLOR, then FORCE_COLOR, then whether a terminal is there. */
function isColoured(screen: Screen): boolean {
  if (process.env.NO_COLOR) return false;
  return Boolean(process.env.FORCE_COLOR) || (Boolean(screen.isTTY) && process.env.TERM !== "dumb");
}

/** A line that is longer is cut: memory must not grow with what a program prints. */
const LONGEST = 64 * 1024;

/** What a stream shows. A frame is a line that the next one replaces, such as a progress bar. */
export interface Piece {
  text: string;
  isFrame: boolean;
}

/**
 * Cuts a stream into lines. A carriage return ends a frame, a line feed a line; "\r\n" is a line feed. Bytes are kept as
 * they are, one character each (latin1): they may be UTF-8, cut anywhere, or no text at all.
 */
export class LineSplitter {
  #text = "";
  /** The frame that stands there now, which a line feed makes a line. */
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

  /** What is left when the stream ends. */
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
