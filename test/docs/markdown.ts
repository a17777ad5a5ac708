import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../cli/support.js";

/** All documents that people read, relative to the checkout. */
export const documents: readonly string[] = [
  "README.md",
  "CONTRIBUTING.md",
  ...readdirSync(join(root, "docs"))
    .filter((name) => name.endsWith(".md"))
    .sort()
    .map((name) => `docs/${name}`),
];

/** A fenced block. `mark` is the comment on the line before it: `<!-- run -->` says "run". */
export interface Block {
  document: string;
  line: number;
  language: string;
  mark: string;
  text: string;
}

/** A table. `mark` as for blocks; cells without their bars. */
export interface Table {
  document: string;
  mark: string;
  rows: string[][];
}

export const read = (document: string): string => readFileSync(join(root, document), "utf8");

/** The comment in the line before line `i`, or before the blank line there; "" if there is none. */
function markAbove(lines: readonly string[], i: number): string {
  const above = lines[i - 1]?.trim() === "" ? lines[i - 2] : lines[i - 1];
  return above?.match(/^ *<!-- (.*) -->$/)?.[1] ?? "";
}

export function blocksOf(document: string): Block[] {
  const lines = read(document).split("\n");
  const blocks: Block[] = [];
  for (let i = 0; i < lines.length; i++) {
    const fence = lines[i].match(/^( *)```(\w*)$/);
    if (!fence) continue;
    const end = lines.indexOf(`${fence[1]}\`\`\``, i + 1);
    if (end < 0) throw new Error(`${document}:${i + 1}: a block that does not end`);
    const text = lines.slice(i + 1, end).map((line) => line.slice(fence[1].length));
    blocks.push({ document, line: i + 1, language: fence[2], mark: markAbove(lines, i), text: text.join("\n") });
    i = end;
  }
  return blocks;
}

export function tablesOf(document: string): Table[] {
  const lines = read(document).split("\n");
  const tables: Table[] = [];
  for (let i = 0; i < lines.length; i++) {
    if (!lines[i].startsWith("|")) continue;
    const mark = markAbove(lines, i);
    const rows: string[][] = [];
    for (; lines[i]?.startsWith("|"); i++)
      rows.push(
        lines[i]
          .split("|")
          .slice(1, -1)
          .map((cell) => cell.trim()),
      );
    tables.push({ document, mark, rows: rows.slice(2) });
  }
  return tables;
}
