import { existsSync } from "node:fs";
import { join } from "node:path";
import { readReport } from "../../train/sinks/report.js";
import type { ReportState } from "../../train/sinks/report-data.js";
import { CliError } from "../errors.js";
import { shownPath } from "../show.js";
import { WatchedRun } from "../watch/watched-run.js";

export interface ReadRun {
  path: string;
  state: ReportState;
}

/**
 * What a run's log tells, or else its page.
 *
 * @param path the run's folder, its metrics.jsonl or its report.html
 * @throws CliError where there is neither, or nothing in it
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
  const hint = isPage ? "is no report of a run" : "holds no run: neither metrics.jsonl nor report.html tells of one";
  throw new CliError(`${shownPath(path)} ${hint}`);
}
