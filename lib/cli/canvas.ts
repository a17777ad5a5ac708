import colors from "picocolors";
import type { Tokenizer } from "../model/index.js";

/** A token on the canvas. `confidence` colours it; null leaves it plain. */
export interface Cell {
  id: number;
  masked: boolean;
  confidence: number | null;
}

const MASKED = "▒";

/**
 * The text with its colours: committed tokens by confidence (green from 0.9, yellow from 0.5, red below), masked ones as
 * a shade. Tokens that share a character are joined before they are decoded.
 */
export function paint(cells: readonly Cell[], tokenizer: Pick<Tokenizer, "decode">): string {
  let text = "";
  for (let i = 0; i < cells.length; ) {
    const style = styleOf(cells[i]);
    let end = i + 1;
    while (end < cells.length && styleOf(cells[end]) === style) end++;
    const run = cells.slice(i, end);
    const plain = cells[i].masked ? MASKED.repeat(run.length) : tokenizer.decode(run.map((cell) => cell.id));
    // Colour codes must not run over a line's end: terminals colour the rest of the line then.
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

/** Redraws a text in place on a terminal: each frame replaces the one before. */
export class Canvas {
  readonly #stream: NodeJS.WriteStream;
  #rows = 0;

  constructor(stream: NodeJS.WriteStream) {
    this.#stream = stream;
  }

  draw(text: string): void {
    const frame = lastRows(text, this.#stream.columns || 80, Math.max(4, (this.#stream.rows || 24) - 2));
    this.#stream.write(`${this.#rows > 1 ? `\x1b[${this.#rows - 1}A` : ""}\r\x1b[J${frame.text}`);
    this.#rows = frame.rows;
  }

  /** Leaves the last frame and goes to the next line. */
  end(): void {
    if (this.#rows > 0) this.#stream.write("\n");
    this.#rows = 0;
  }
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: terminal colours are control characters
const COLOUR = /\x1b\[[0-9;]*m/g;

/** The end of a text that fits in so many rows, and how many it takes: what scrolled away cannot be redrawn. */
export function lastRows(text: string, columns: number, maxRows: number): { text: string; rows: number } {
  const lines = text.replaceAll("\t", "    ").split("\n");
  const kept: string[] = [];
  let rows = 0;
  for (const line of lines.reverse()) {
    const taken = Math.max(1, Math.ceil(line.replace(COLOUR, "").length / columns));
    if (rows + taken > maxRows && kept.length > 0) break;
    kept.unshift(line);
    rows += taken;
  }
  return { text: kept.join("\n"), rows };
}
