import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { comparisonPage, readReport, reportPage } from "../../train/sinks/report.js";
import { type ReportState, thinned } from "../../train/sinks/report-data.js";
import type { ReportOptions } from "../command-options.js";
import { CliError } from "../errors.js";
import { shownPath } from "../terminal.js";
import { WatchedRun } from "../watch/watched-run.js";

/** Maximum number of rows of all curves, so that the page still opens quickly. */
const MAX_ROWS = 12_000;
const MOST_ROWS = 3000;

/** Writes the page of one run, or the page that compares several. */
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

/** The last component of each path, with preceding ones if needed to distinguish runs. */
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

export interface ReadRun {
  path: string;
  state: ReportState;
}

/**
 * Reads a run from its log, or else from its page.
 *
 * @param path the run's folder, its metrics.jsonl or its report.html
 * @throws CliError if neither exists or it has no run
 */
export async function readRun(path: string): Promise<ReadRun> {
  if (!existsSync(path)) throw new CliError(`${shownPath(path)} does not exist`);
  const isPage = path.endsWith(".html");
  if (!isPage) {
    const run = new WatchedRun(path);
    while (await run.read());
    if (run.report.run !== null || run.report.rows.length > 0) return { path, state: run.report };
  }
  const state = readReport(isPage ? path : join(path, "report.html"));
  if (state) return { path, state };
  const hint = isPage
    ? "is not a valid report of a run"
    : "does not contain a run: it has neither metrics.jsonl nor report.html";
  throw new CliError(`${shownPath(path)} ${hint}`);
}
