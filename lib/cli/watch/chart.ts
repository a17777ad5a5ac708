import colors from "picocolors";
import { width } from "../canvas.js";

export interface ChartPoint {
  x: number;
  y: number;
  /** Points of different groups are not joined. */
  group: number;
}

export interface ChartOptions {
  columns: number;
  /** Number of rows, including the x axis. */
  rows: number;
  log: boolean;
  style: (group: number) => Style;
  formatX: (value: number) => string;
  formatY: (value: number) => string;
}

/** Each character has two columns of four dots; the bits of the dots of each column, from the top. */
const BRAILLE = 0x2800;
const DOTS = [
  [0x01, 0x02, 0x04, 0x40],
  [0x08, 0x10, 0x20, 0x80],
];

/**
 * Draws a curve in braille characters, with axes. The range of `behind` (such as the unsmoothed values) is drawn first,
 * in gray. A few of the highest and lowest values of `behind` may be outside the chart, so that single outliers do not
 * flatten the rest.
 */
export function drawChart(curve: readonly ChartPoint[], behind: readonly ChartPoint[], options: ChartOptions): Line[] {
  const { columns, rows, log, style, formatX, formatY } = options;
  const scale = log ? Math.log10 : (value: number) => value;
  const known = ({ y }: ChartPoint) => Number.isFinite(scale(y));
  const points = curve.filter(known);
  const shades = behind.filter(known);
  const height = rows - 1;
  if (points.length === 0 || height < 2 || columns < 12) {
    const empty: Piece[] = [[log && curve.length > 0 ? "nothing above zero" : "nothing yet", colors.gray]];
    return Array.from({ length: rows }, (_, row) => fitLine(row === Math.floor(height / 2) ? empty : [], columns));
  }

  const [low, high] = rangeOf(points, shades, scale);
  const inverse = log ? (value: number) => 10 ** value : (value: number) => value;
  const labels = labelRows(height).map((row) => {
    const share = height === 1 ? 0 : row / (height - 1);
    return { row, text: formatY(inverse(high - share * (high - low))) };
  });
  const margin = Math.max(...labels.map(({ text }) => text.length)) + 1;
  const canvas = new Braille(columns - margin - 1, height);
  const [from, to] = [points[0].x, (points.at(-1) as ChartPoint).x];
  const place = ({ x, y }: ChartPoint) => ({
    x: to === from ? 0 : Math.round(((x - from) / (to - from)) * (canvas.width - 1)),
    y: Math.round(((high - scale(y)) / (high - low)) * (canvas.height - 1)),
  });
  for (const point of shades) {
    const { x, y } = place(point);
    canvas.dot(x, y, colors.gray);
  }
  points.forEach((point, i) => {
    const before = points[i - 1];
    const at = place(point);
    canvas.line(before?.group === point.group ? place(before) : at, at, style(point.group));
  });

  const lines: Line[] = canvas.lines().map((line, row) => {
    const label = labels.find((each) => each.row === row)?.text ?? "";
    return [[label.padStart(margin - 1), colors.gray], [label === "" ? " │" : " ┤", colors.gray], ...line];
  });
  const [first, last] = [formatX(from), formatX(to)];
  const gap = columns - margin - 1 - first.length - last.length;
  const ends = gap > 0 ? `${first}${" ".repeat(gap)}${last}` : last;
  return [...lines, fitLine([[" ".repeat(margin + 1)], [ends, colors.gray]], columns)];
}

function rangeOf(
  points: readonly ChartPoint[],
  shades: readonly ChartPoint[],
  scale: (value: number) => number,
): [number, number] {
  const sorted = shades.map(({ y }) => scale(y)).sort((a, b) => a - b);
  const inner = sorted.slice(Math.floor(sorted.length * 0.005), Math.ceil(sorted.length * 0.99));
  let low = inner[0] ?? Number.POSITIVE_INFINITY;
  let high = inner.at(-1) ?? Number.NEGATIVE_INFINITY;
  for (const { y } of points) {
    low = Math.min(low, scale(y));
    high = Math.max(high, scale(y));
  }
  const room = high > low ? 0 : Math.abs(high) * 0.05 || 1;
  return [low - room, high + room];
}

/** Rows with a label: the first, the last, and some in between. */
function labelRows(height: number): number[] {
  const count = Math.max(2, Math.min(5, Math.floor(height / 3)));
  return Array.from({ length: count }, (_, i) => Math.round((i * (height - 1)) / (count - 1)));
}

/** A canvas of dots; a character has the style of the last dot drawn in it. */
class Braille {
  readonly width: number;
  readonly height: number;
  readonly #cells: number[][];
  readonly #styles: (Style | undefined)[][];

  constructor(columns: number, rows: number) {
    this.width = 2 * columns;
    this.height = 4 * rows;
    this.#cells = Array.from({ length: rows }, () => new Array(columns).fill(0));
    this.#styles = Array.from({ length: rows }, () => new Array(columns).fill(undefined));
  }

  dot(x: number, y: number, style: Style): void {
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return;
    const [row, column] = [y >> 2, x >> 1];
    this.#cells[row][column] |= DOTS[x & 1][y & 3];
    this.#styles[row][column] = style;
  }

  line(a: { x: number; y: number }, b: { x: number; y: number }, style: Style): void {
    const length = Math.max(1, Math.abs(b.x - a.x), Math.abs(b.y - a.y));
    for (let i = 0; i <= length; i++) {
      const share = i / length;
      this.dot(Math.round(a.x + share * (b.x - a.x)), Math.round(a.y + share * (b.y - a.y)), style);
    }
  }

  lines(): Piece[][] {
    return this.#cells.map((cells, row) => {
      const pieces: Piece[] = [];
      let text = "";
      let style: Style | undefined;
      cells.forEach((cell, column) => {
        const own = cell === 0 ? undefined : this.#styles[row][column];
        if (own !== style && text !== "") {
          pieces.push([text, style]);
          text = "";
        }
        style = own;
        text += cell === 0 ? " " : String.fromCharCode(BRAILLE + cell);
      });
      pieces.push([text, style]);
      return pieces;
    });
  }
}

const BARS = "▁▂▃▄▅▆▇█";

/** The last values as a row of bars, scaled from their minimum to their maximum. */
export function sparkline(values: readonly number[], columns: number): string {
  const shown = values.slice(-columns);
  const [low, high] = [Math.min(...shown), Math.max(...shown)];
  return shown
    .map((value) => BARS[high === low ? 3 : Math.round(((value - low) / (high - low)) * (BARS.length - 1))])
    .join("")
    .padStart(columns);
}

export type Style = (text: string) => string;

/** A part of a line in one style. The text has no control characters. */
export type Piece = readonly [text: string, style?: Style];
export type Line = readonly Piece[];

export const plain: Style = (text) => text;

/** Colors of the stages, in order; similar to those of the HTML report. */
const STAGES: readonly Style[] = [colors.cyan, colors.yellow, colors.green, colors.magenta, colors.blue, colors.red];

export function stageStyle(stage: number): Style {
  return STAGES[stage % STAGES.length];
}

export function lineWidth(line: Line): number {
  return line.reduce((sum, [text]) => sum + width(text), 0);
}

/** Truncates or pads a line to exactly `columns` columns. */
export function fitLine(line: Line, columns: number): Piece[] {
  const fitted: Piece[] = [];
  let left = columns;
  for (const [text, style] of line) {
    if (width(text) <= left) {
      fitted.push([text, style]);
      left -= width(text);
      continue;
    }
    const cut = cutText(text, left);
    fitted.push([cut, style]);
    left -= width(cut);
    break;
  }
  if (left > 0) fitted.push([" ".repeat(left)]);
  return fitted;
}

/** Truncates a text, with an ellipsis if something is left out. */
export function cutText(text: string, columns: number): string {
  if (width(text) <= columns) return text;
  if (columns < 1) return "";
  let kept = "";
  let used = 0;
  for (const character of text) {
    used += width(character);
    if (used > columns - 1) break;
    kept += character;
  }
  return `${kept}…`;
}

/** Combines a left-aligned and a right-aligned line. If both do not fit, the right one is truncated first. */
export function spread(left: Line, right: Line, columns: number): Line {
  const room = columns - lineWidth(right) - 1;
  return room < 12 ? fitLine(left, columns) : [...fitLine(left, room), [" "], ...right];
}

/** Converts a line to the characters for a terminal. */
export function paintLine(line: Line): string {
  return line.map(([text, style = plain]) => (text === "" ? "" : style(text))).join("");
}
