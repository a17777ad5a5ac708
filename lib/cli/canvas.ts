import colors from "picocolors";
import type { Tokenizer } from "../tokenizer/index.js";

/** A token on the canvas. `confidence` determines its color; null means no color. */
export interface Cell {
  id: number;
  masked: boolean;
  confidence: number | null;
}

const MASKED = "▒";

/**
 * Colors the text: committed tokens by confidence (green from 0.9, yellow from 0.5, red below), masked ones as a shade.
 * Tokens that share a character are joined before they are decoded.
 */
export function paint(cells: readonly Cell[], tokenizer: Pick<Tokenizer, "decode">): string {
  let text = "";
  for (let i = 0; i < cells.length; ) {
    const style = styleOf(cells[i]);
    let end = i + 1;
    while (end < cells.length && styleOf(cells[end]) === style) end++;
    const run = cells.slice(i, end);
    const plain = cells[i].masked ? MASKED.repeat(run.length) : printable(tokenizer.decode(run.map((cell) => cell.id)));
    // Color codes must not extend over the end of a line, because terminals then color the rest of the line.
    text += plain
      .split("\n")
      .map((line) => (line === "" ? "" : style(line)))
      .join("\n");
    i = end;
  }
  return text;
}

type Style = (text: string) => string;
const plain: Style = (text) => text;

function styleOf({ masked, confidence }: Cell): Style {
  if (masked) return colors.gray;
  if (confidence === null) return plain;
  return confidence >= 0.9 ? colors.green : confidence >= 0.5 ? colors.yellow : colors.red;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: the pattern matches them
const CONTROL = /[\x00-\x08\x0b-\x1f\x7f-\x9f]/g;

/**
 * Removes control characters from a text for a terminal: a model may generate any byte, and some would move the cursor
 * or change the screen.
 */
export function printable(text: string): string {
  return text.replace(CONTROL, (character) => {
    const code = character.charCodeAt(0);
    return code < 0x20 ? String.fromCharCode(0x2400 + code) : "\ufffd";
  });
}

/** Redraws a text in place on a terminal: each frame replaces the previous one. */
export class Canvas {
  readonly #stream: NodeJS.WriteStream;
  #rows = 0;

  constructor(stream: NodeJS.WriteStream) {
    this.#stream = stream;
  }

  /** Shows the end of a text, up to the size of the screen. */
  draw(text: string): void {
    const frame = lastRows(text, this.#stream.columns || 80, Math.max(4, (this.#stream.rows || 24) - 2));
    this.#replace(frame.text);
    this.#rows = frame.rows;
  }

  /** Shows the whole text, which may scroll, and moves to the next line. */
  finish(text: string): void {
    this.#replace(`${text.replaceAll("\t", TAB)}\n`);
    this.#rows = 0;
  }

  #replace(text: string): void {
    this.#stream.write(`${this.#rows > 1 ? `\x1b[${this.#rows - 1}A` : ""}\r\x1b[J${text}`);
  }
}

const TAB = "    ";

// biome-ignore lint/suspicious/noControlCharactersInRegex: terminal colors are control characters
const COLOUR = /\x1b\[[0-9;]*m/g;
// biome-ignore lint/suspicious/noControlCharactersInRegex: as above
const COLOUR_OR_CHARACTER = /\x1b\[[0-9;]*m|./gsu;

/** The end of a text that fits into `maxRows` rows, and the number of its rows: scrolled lines cannot be redrawn. */
export function lastRows(text: string, columns: number, maxRows: number): { text: string; rows: number } {
  const lines = text.replaceAll("\t", TAB).split("\n");
  const kept: string[] = [];
  let rows = 0;
  for (const line of lines.reverse()) {
    const taken = Math.max(1, Math.ceil(width(line.replace(COLOUR, "")) / columns));
    if (rows + taken > maxRows) {
      if (kept.length > 0) break;
      return { text: lastColumns(line, columns * maxRows), rows: maxRows };
    }
    kept.unshift(line);
    rows += taken;
  }
  return { text: kept.join("\n"), rows };
}

/** The end of a line that fits into `columns` columns, with all color codes of the line. */
function lastColumns(line: string, columns: number): string {
  const parts = [...line.matchAll(COLOUR_OR_CHARACTER)].map(([part]) => part);
  let left = columns;
  const kept = parts.reverse().filter((part) => {
    if (part.startsWith("\x1b")) return true;
    left -= width(part);
    return left >= 0;
  });
  return kept.reverse().join("");
}

// East Asian wide and full-width characters, and emoji.
const WIDE =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}\u{20000}-\u{3fffd}]/u;
const NO_WIDTH = /[\p{Mn}\p{Me}\p{Cf}]/u;

/** Number of columns of a text on a terminal. */
export function width(text: string): number {
  let columns = 0;
  for (const character of text) {
    if (!NO_WIDTH.test(character)) columns += WIDE.test(character) ? 2 : 1;
  }
  return columns;
}
