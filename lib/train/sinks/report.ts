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
  /** Seconds between two writes during training. Default 30. */
  interval?: number;
}

/**
 * Writes one HTML file with the run's curves, samples and settings, which needs no network and no other file. The whole
 * file is rewritten periodically during training and at the end. When a run resumes from a checkpoint, the existing
 * page is read and continued.
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
      if (state.state === "running") state.state = "stopped"; // the consumer stopped reading the events
      write();
    },
  };
}

/** The state embedded in an existing page; undefined if there is none. */
export function readReport(path: string): ReportState | undefined {
  if (!existsSync(path)) return undefined;
  try {
    const json = readTextFile(path).match(/<script type="application\/json" id="run">(.*?)<\/script>/s)?.[1];
    return reportStateSchema.parse(JSON.parse(json ?? ""));
  } catch {
    return undefined; // written by another version, or incomplete: the report starts over
  }
}

/** The page of one run. */
export function reportPage(state: ReportState): string {
  return page(state.title, state, own("report.js"), own("report.css"));
}

/** Data of the page that compares runs. */
export interface Comparison {
  title: string;
  /** In the order in which they are shown. Names are unique. */
  runs: { name: string; state: ReportState }[];
}

/** The page that overlays the curves of several runs. */
export function comparisonPage(comparison: Comparison): string {
  return page(comparison.title, comparison, own("compare.js"), `${own("report.css")}\n${own("compare.css")}`);
}

function page(title: string, data: unknown, script: string, style: string): string {
  const charts = dirname(createRequire(import.meta.url).resolve("uplot/package.json"));
  const ofCharts = (name: string) => readFileSync(join(charts, "dist", name), "utf8");
  const parts: Record<string, string> = {
    TITLE: escapeHtml(title),
    STYLE: `${ofCharts("uPlot.min.css")}\n${style}`,
    // Escaped, because "</script>" in a sample would end the script element.
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

/** Rounds to six digits, which is more than a curve shows. */
function roundNumbers(_: string, value: unknown): unknown {
  return typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(6)) : value;
}

function escapeHtml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
}
