import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, join, relative, resolve } from "node:path";
import colors from "picocolors";
import { exportCheckpoint } from "../../checkpoint/export.js";
import { type FoundCheckpoint, listCheckpoints } from "../../checkpoint/index.js";
import { damages, missingFiles } from "../../checkpoint/manifest.js";
import { compact } from "../../train/format.js";
import type { CheckpointExportOptions, CheckpointListOptions, CheckpointVerifyOptions } from "../command-options.js";
import { CliError } from "../errors.js";
import { ProgressBar } from "../progress-bar.js";
import { interruptible, shownCommand, shownPath } from "../terminal.js";

/** One checkpoint in `checkpoint ls --json`. */
export interface ListedCheckpoint {
  name: string;
  path: string;
  /** Optimizer steps of the run. This and the following fields are null if the checkpoint cannot be read. */
  globalStep: number | null;
  /** The current stage, and the steps done in it. */
  stage: string | null;
  step: number | null;
  savedAt: string | null;
  worldSize: number | null;
  bytes: number;
  /** The first missing or truncated file; null if there is none. */
  problem: string | null;
}

/** Lists a run's checkpoints. */
export function list(run: string, { json }: CheckpointListOptions): void {
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

/** Compares checkpoints with their manifests and prints the result. */
export async function verify(folder: string, { all }: CheckpointVerifyOptions): Promise<void> {
  for (const path of wanted(folder, all)) {
    const found: string[] = [];
    {
      using bar = new ProgressBar(basename(path));
      for await (const problem of damages(path, {
        onProgress: ({ file, done, total }) => bar.update(done, total, file),
      })) {
        found.push(problem);
      }
    }
    if (found.length === 0) process.stdout.write(`${shownPath(path)}: ${colors.green("whole")}\n`);
    for (const problem of found) process.stdout.write(`${shownPath(path)}: ${colors.red(problem)}\n`);
    if (found.length > 0) process.exitCode = 1;
  }
}

/** The folders of the checkpoints to verify. */
function wanted(folder: string, all = false): string[] {
  if (isCheckpoint(folder)) {
    if (all) throw new CliError(`${folder} is one checkpoint; --all goes with a run's folder`);
    if (!existsSync(join(folder, "manifest.json")) && !existsSync(join(folder, "trainer.json"))) {
      throw new CliError(`${folder} is a model, not a checkpoint of a run: it has no manifest to compare with`);
    }
    return [resolve(oneCheckpoint(folder))];
  }
  const inside = checkpointsFolder(folder);
  const { readable, unreadable } = listCheckpoints(inside);
  const paths = [...readable, ...unreadable].map(({ path }) => path);
  if (paths.length === 0) throw new CliError(`no checkpoints in ${inside}`);
  return all ? paths : paths.slice(0, 1);
}

/** Writes a checkpoint's weights in Hugging Face layout. */
export async function exportModel(folder: string, { out, dtype, maxShard }: CheckpointExportOptions): Promise<void> {
  const from = oneCheckpoint(folder);
  const to = resolve(out);
  checkTarget(resolve(from), to);
  await interruptible("Stopping. Press Ctrl-C again to exit immediately.", async (signal) => {
    try {
      using bar = new ProgressBar("exporting");
      await exportCheckpoint(from, to, {
        dtype,
        maxShardBytes: maxShard,
        signal,
        onProgress: ({ tensor, done, total }) => bar.update(done, total, tensor),
      });
    } catch (error) {
      throw signal.aborted ? signal.reason : error;
    }
    process.stdout.write(`${shownPath(to)}: ${compact(sizeOf(to))}B\n`);
    process.stdout.write(`Try it: ${shownCommand("npx", "diffcoder", "generate", shownPath(to))} "def add("\n`);
  });
}

/** The folder is replaced as a whole, so it must be empty or a model. */
function checkTarget(from: string, to: string): void {
  const below = relative(to, from);
  if (!below.startsWith("..")) throw new CliError(`--out ${shownPath(to)} would replace the checkpoint itself`);
  if (!existsSync(to)) return;
  const names = readdirSync(to);
  if (names.length === 0) return;
  if (existsSync(join(to, "trainer.json"))) throw new CliError(`--out ${shownPath(to)} is a checkpoint of a run`);
  if (existsSync(join(to, "config.json"))) return;
  throw new CliError(`--out ${shownPath(to)} is not empty and is not a model: it would be replaced`);
}

/** The folder with a run's checkpoints, from the run's folder or the folder itself. */
export function checkpointsFolder(run: string): string {
  if (!existsSync(run) || !statSync(run).isDirectory()) throw new CliError(`${run} is not a folder`);
  const inside = join(run, "checkpoints");
  if (existsSync(inside)) return inside;
  const { readable } = listCheckpoints(run);
  if (readable.length > 0) return run;
  throw new CliError(`${run} is not a run: it has no folder checkpoints`);
}

/** Whether a folder looks like one checkpoint, of a run or in Hugging Face layout. */
export function isCheckpoint(folder: string): boolean {
  return ["manifest.json", "trainer.json", "config.json"].some((name) => existsSync(join(folder, name)));
}

/**
 * The folder of one checkpoint. If it is the folder of a run, a likely mistake, the error lists the checkpoints in it.
 */
export function oneCheckpoint(folder: string): string {
  if (!existsSync(folder) || !statSync(folder).isDirectory()) throw new CliError(`${folder} is not a folder`);
  if (isCheckpoint(folder)) return folder;
  const inside = existsSync(join(folder, "checkpoints")) ? join(folder, "checkpoints") : folder;
  const names = listCheckpoints(inside).readable.map(({ path }) => shownPath(path));
  const hint = names.length > 0 ? `. It may be a run; its checkpoints are:\n  ${names.join("\n  ")}` : "";
  throw new CliError(`${folder} is not a checkpoint${hint}`);
}

/** Bytes of all files in a folder. */
export function sizeOf(folder: string): number {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .reduce((sum, entry) => sum + statSync(join(entry.parentPath, entry.name)).size, 0);
}
