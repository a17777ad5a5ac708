import { isAbsolute, relative } from "node:path";

/** A path as people write it: relative to the working directory where it lies below that. */
export function shownPath(path: string): string {
  const near = relative(".", path);
  if (near === "") return ".";
  return near.startsWith("..") || isAbsolute(near) ? path : near;
}

/** A command line that can be pasted into a shell. */
export function shownCommand(...words: string[]): string {
  return words.map((word) => (/^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(" ");
}

/** The text of a corpus summary, with a line for each reason to skip. */
export function shownSummary(summary: string): string {
  return summary.replace(/\), (?=\d)/g, "),\n         ");
}
