import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { readTextFile } from "../../base/regular-file.js";
import { addToReport, newReport, type ReportState, reportStateSchema } from "./report-data.js";
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

/** The page of one run. */
export function reportPage(state: ReportState): string {
  return page(state.title, state, own("report.js"), own("report.css"));
}

/** What the page that compares runs holds. */
export interface Comparison {
  title: string;
  /** In the order in which they are shown. Names are unique. */
  runs: { name: string; state: ReportState }[];
}

/** The page that lays the curves of several runs over each other. */
export function comparisonPage(comparison: Comparison): string {
  return page(comparison.title, comparison, own("compare.js"), `${own("report.css")}\n${own("compare.css")}`);
}

function page(title: string, data: unknown, script: string, style: string): string {
  const charts = dirname(createRequire(import.meta.url).resolve("uplot/package.json"));
  const ofCharts = (name: string) => readFileSync(join(charts, "dist", name), "utf8");
  const parts: Record<string, string> = {
    TITLE: escapeHtml(title),
    STYLE: `${ofCharts("uPlot.min.css")}\n${style}`,
    // "<" would let a sample's text end the script element.
    DATA: JSON.stringify(data, roundNumbers).replaceAll("<", "\\u003c"),
    CHARTS: ofCharts("uPlot.iife.min.js"),
    COMMON: own("common.js"),
    SCRIPT: script,
  };
  return own("report.html").replace(/\{\{([A-Z]+)\}\}/g, (_, name: string) => parts[name]);
}

const known = new Map<string, string>();

/** A part of the page from assets/report, read once. */
function own(name: string): string {
  const text =
    known.get(name) ??
    readFileSync(join(fileURLToPath(new URL("../../../assets/report/", import.meta.url)), name), "utf8");
  known.set(name, text);
  return text;
}

/** Six digits are more than a curve shows. */
function roundNumbers(_: string, value: unknown): unknown {
  return typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(6)) : value;
}

function escapeHtml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
}
