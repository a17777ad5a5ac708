import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { ReportState } from "./report-data.js";

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
