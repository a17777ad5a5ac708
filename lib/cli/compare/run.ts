import { mkdirSync, writeFileSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import { comparisonPage, reportPage } from "../../train/sinks/report.js";
import { thinned } from "../../train/sinks/report-data.js";
import { CliError } from "../errors.js";
import type { ReportOptions } from "../report.js";
import { shownPath } from "../show.js";
import { type ReadRun, readRun } from "./read-run.js";

/** A page with so many rows of curves is still quick to open. */
const MAX_ROWS = 12_000;
const MOST_ROWS = 3000;

/** Writes one run's page, or the page that compares several. */
export async function writeReport(paths: readonly string[], { out, title }: ReportOptions): Promise<void> {
  const runs: ReadRun[] = [];
  for (const path of paths) runs.push(await readRun(path));
  const page = pageOf(runs, title);
  try {
    mkdirSync(dirname(resolve(out)), { recursive: true });
    writeFileSync(out, page);
  } catch (error) {
    throw new CliError(`cannot write ${shownPath(out)}: ${(error as Error).message}`, { cause: error });
  }
}

function pageOf(runs: readonly ReadRun[], title: string | undefined): string {
  if (runs.length === 1) return reportPage({ ...runs[0].state, title: title ?? runs[0].state.title });
  const rows = Math.max(200, Math.min(MOST_ROWS, Math.floor(MAX_ROWS / runs.length)));
  const names = uniqueNames(runs.map(({ path }) => path));
  return comparisonPage({
    title: title ?? `${runs.length} runs`,
    runs: runs.map(({ state }, i) => ({ name: names[i], state: thinned(state, rows) })),
  });
}

/** Each path's last part; with the part before it where that is needed to tell runs apart. */
export function uniqueNames(paths: readonly string[]): string[] {
  const parts = paths.map((path) =>
    resolve(path)
      .replace(/\/(metrics\.jsonl|report\.html)$/, "")
      .split("/"),
  );
  const named = (length: number) => parts.map((each) => each.slice(-length).join("/") || "/");
  const longest = Math.max(...parts.map(({ length }) => length));
  for (let length = 1; length < longest; length++) {
    const names = named(length);
    if (new Set(names).size === names.length) return names;
  }
  // The same run given twice.
  return named(longest).map((name, i) => `${basename(name)} (${i + 1})`);
}
