import colors from "picocolors";
import { width } from "../canvas.js";

export type Style = (text: string) => string;

/** A part of a line in one style. The text has no control characters. */
export type Piece = readonly [text: string, style?: Style];
export type Line = readonly Piece[];

export const plain: Style = (text) => text;

/** Stages in the order of the curriculum; the HTML report has the like. */
const STAGES: readonly Style[] = [colors.cyan, colors.yellow, colors.green, colors.magenta, colors.blue, colors.red];

export function stageStyle(stage: number): Style {
  return STAGES[stage % STAGES.length];
}

export function lineWidth(line: Line): number {
  return line.reduce((sum, [text]) => sum + width(text), 0);
}

/** A line with exactly so many columns: what does not fit is left out, what is missing is white space. */
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

/** The beginning of a text, with an ellipsis where something is left out. */
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

/** One line at the left and one at the right end. The right one goes first where both do not fit. */
export function spread(left: Line, right: Line, columns: number): Line {
  const room = columns - lineWidth(right) - 1;
  return room < 12 ? fitLine(left, columns) : [...fitLine(left, room), [" "], ...right];
}

/** The characters that a terminal gets. */
export function paintLine(line: Line): string {
  return line.map(([text, style = plain]) => (text === "" ? "" : style(text))).join("");
}
