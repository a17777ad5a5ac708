import colors from "picocolors";
import type { RankStats } from "../../train/events.js";
import { fitLine, type Line, type Piece } from "./line.js";
import { bytes, seconds } from "./metric-view.js";

/** Behind the median by so much, a rank is one that the others wait for. */
const BEHIND = 0.1;

/**
 * What each rank tells of the latest step: its time with a bar, its wait for data, its memory. Where not all fit, the
 * slowest are shown.
 */
export function rankTable(perRank: readonly RankStats[], columns: number, rows: number): Line[] {
  const bySpeed = [...perRank].sort((a, b) => b.seconds - a.seconds);
  const longest = bySpeed[0].seconds;
  const median = bySpeed[Math.floor(bySpeed.length / 2)].seconds;
  const fits = perRank.length <= rows - 1;
  const shown = fits ? perRank : bySpeed.slice(0, Math.max(1, rows - 2));
  const room = columns - 43;
  const bar = room < 4 ? 0 : Math.min(20, room);
  const heading: Piece[] = [
    ["rank", colors.bold],
    [`${"step".padStart(9)}${" ".repeat(bar + 1)}${"data".padStart(9)}${"memory".padStart(11)}`, colors.gray],
  ];
  const lines: Line[] = shown.map(({ rank, seconds: time, dataSeconds, rss }) => {
    const isSlow = rank === bySpeed[0].rank && time > (1 + BEHIND) * median;
    const style = isSlow ? colors.yellow : colors.cyan;
    const length = longest > 0 ? Math.round((time / longest) * bar) : 0;
    const numbers = `${seconds(dataSeconds).padStart(9)}${bytes(rss).padStart(11)}`;
    return [
      [String(rank).padStart(4), isSlow ? colors.yellow : undefined],
      [seconds(time).padStart(9)],
      [` ${"▆".repeat(length)}${" ".repeat(bar - length)}`, style],
      [numbers, colors.gray],
      [isSlow ? " slowest" : "", colors.yellow],
    ];
  });
  if (!fits) lines.push([[`and ${perRank.length - shown.length} more that were faster`, colors.gray]]);
  return [heading, ...lines].slice(0, rows).map((line) => fitLine(line, columns));
}
