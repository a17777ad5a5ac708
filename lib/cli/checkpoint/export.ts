import { existsSync, readdirSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { exportCheckpoint } from "../../checkpoint/export.js";
import { compact } from "../../train/format.js";
import type { ExportCommandOptions } from "../checkpoint.js";
import { CliError } from "../errors.js";
import { interruptible } from "../interruptible.js";
import { shownCommand, shownPath } from "../show.js";
import { BytesBar } from "./bar.js";
import { oneCheckpoint, sizeOf } from "./find.js";

/** Writes a checkpoint's weights in Hugging Face layout. */
export async function exportModel(folder: string, { out, dtype, maxShard }: ExportCommandOptions): Promise<void> {
  const from = oneCheckpoint(folder);
  const to = resolve(out);
  checkTarget(resolve(from), to);
  await interruptible("Stopping. Once more ends at once.", async (signal) => {
    try {
      using bar = new BytesBar("exporting");
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

/** The folder is replaced as a whole, so it must be one whose loss nobody minds. */
function checkTarget(from: string, to: string): void {
  const below = relative(to, from);
  if (!below.startsWith("..")) throw new CliError(`--out ${shownPath(to)} would replace the checkpoint itself`);
  if (!existsSync(to)) return;
  const names = readdirSync(to);
  if (names.length === 0) return;
  if (existsSync(join(to, "trainer.json"))) throw new CliError(`--out ${shownPath(to)} is a checkpoint of a run`);
  if (existsSync(join(to, "config.json"))) return;
  throw new CliError(`--out ${shownPath(to)} is not empty and no model: it would be replaced`);
}
