import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import colors from "picocolors";
import { listCheckpoints } from "../../checkpoint/index.js";
import { damages } from "../../checkpoint/manifest.js";
import type { VerifyOptions } from "../checkpoint.js";
import { CliError } from "../errors.js";
import { shownPath } from "../show.js";
import { BytesBar } from "./bar.js";
import { checkpointsFolder, isCheckpoint, oneCheckpoint } from "./find.js";

/** Compares checkpoints with their manifests, and says what it found. */
export async function verify(folder: string, { all }: VerifyOptions): Promise<void> {
  for (const path of wanted(folder, all)) {
    const found: string[] = [];
    {
      using bar = new BytesBar(basename(path));
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

/** The folders to look at. */
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
