import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import { readTextFile } from "../../base/regular-file.js";
import { addToReport, newReport, type ReportState, reportStateSchema } from "./report-data.js";
import { reportPage } from "./report-page.js";
import type { Sink } from "./sink.js";

export interface ReportOptions {
  /** Heading; default: the name of the folder. */
  title?: string;
  /** Seconds between two writes while training goes on. Default 30. */
  interval?: number;
}

/**
 * One HTML file with the run's curves, samples and facts, that needs no network and no other file. It is written now and
 * then while training goes on and at the end, each time as a whole. When a run goes on from a checkpoint, the page it left
 * is read and goes on, too.
 */
export function report(path: string, options: ReportOptions = {}): Sink {
  const { title = basename(dirname(resolve(path))), interval = 30 } = options;
  let state = newReport(title);
  let written = Number.NEGATIVE_INFINITY;
  const write = () => {
    written = performance.now();
    mkdirSync(dirname(path), { recursive: true });
    const temporary = `${path}.tmp`;
    try {
      writeFileSync(temporary, reportPage(state));
      renameSync(temporary, path);
    } catch (error) {
      rmSync(temporary, { force: true });
      throw error;
    }
  };
  return {
    name: path,
    write(event) {
      if (event.type === "start") state = (event.resumed && readReport(path)) || newReport(title);
      addToReport(state, event);
      const isEnd = event.type === "done" || event.type === "aborted" || event.type === "failed";
      if (isEnd || performance.now() - written >= interval * 1000) write();
    },
    close() {
      if (state.state === "running") state.state = "stopped"; // nobody reads the run's events any more
      write();
    },
  };
}

/** The state that stands in a page written before; undefined if there is none. */
export function readReport(path: string): ReportState | undefined {
  if (!existsSync(path)) return undefined;
  try {
    const json = readTextFile(path).match(/<script type="application\/json" id="run">(.*?)<\/script>/s)?.[1];
    return reportStateSchema.parse(JSON.parse(json ?? ""));
  } catch {
    return undefined; // another version's, or torn: the report begins anew
  }
}
