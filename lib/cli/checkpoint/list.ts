import colors from "picocolors";
import { type FoundCheckpoint, listCheckpoints } from "../../checkpoint/index.js";
import { missingFiles } from "../../checkpoint/manifest.js";
import { compact } from "../../train/format.js";
import type { ListOptions } from "../checkpoint.js";
import { shownPath } from "../show.js";
import { checkpointsFolder, sizeOf } from "./find.js";

/** One checkpoint in `checkpoint ls --json`. */
export interface ListedCheckpoint {
  name: string;
  path: string;
  /** Optimiser steps of the run; null if it cannot be read, as all that follow. */
  globalStep: number | null;
  /** The stage at hand, and the steps done in it. */
  stage: string | null;
  step: number | null;
  savedAt: string | null;
  worldSize: number | null;
  bytes: number;
  /** What is missing or cut short; null if nothing is. */
  problem: string | null;
}

/** Shows a run's checkpoints. */
export function list(run: string, { json }: ListOptions): void {
  const folder = checkpointsFolder(run);
  const { readable, unreadable } = listCheckpoints(folder);
  const rows: ListedCheckpoint[] = [
    ...readable.map(describe),
    ...unreadable.map(({ name, path, problem }) => ({ ...nothing, name, path, bytes: sizeOf(path), problem })),
  ];
  if (json) process.stdout.write(`${JSON.stringify(rows, null, 2)}\n`);
  else if (rows.length === 0) process.stdout.write(`no checkpoints in ${shownPath(folder)}\n`);
  else process.stdout.write(table(rows));
}

const nothing = { globalStep: null, stage: null, step: null, savedAt: null, worldSize: null };

function describe(found: FoundCheckpoint): ListedCheckpoint {
  const { name, path, progress, facts, savedAt, worldSize } = found;
  const stage = facts.stages[progress.stage]?.name;
  return {
    name,
    path,
    globalStep: progress.globalStep,
    stage: progress.stage >= facts.stages.length ? "finished" : String(stage ?? progress.stage),
    step: progress.step,
    savedAt,
    worldSize,
    bytes: sizeOf(path),
    problem: missingFiles(path) ?? null,
  };
}

function table(rows: readonly ListedCheckpoint[]): string {
  const head = ["NAME", "STEP", "STAGE", "SAVED", "PROCESSES", "SIZE", "FILES"];
  const cells = rows.map((row) => [
    row.name,
    row.globalStep === null ? "?" : String(row.globalStep),
    row.stage === null ? "?" : row.stage === "finished" ? row.stage : `${row.stage}, ${row.step}`,
    row.savedAt === null ? "?" : row.savedAt.replace("T", " ").slice(0, 16),
    row.worldSize === null ? "?" : String(row.worldSize),
    `${compact(row.bytes)}B`,
    row.problem ?? "complete",
  ]);
  const widths = head.map((title, i) => Math.max(title.length, ...cells.map((row) => row[i].length)));
  const line = (row: readonly string[]) =>
    row
      .map((cell, i) => cell.padEnd(widths[i]))
      .join("  ")
      .trimEnd();
  const shown = cells.map((row, i) => (rows[i].problem === null ? line(row) : colors.red(line(row))));
  return `${[colors.dim(line(head)), ...shown].join("\n")}\n`;
}
