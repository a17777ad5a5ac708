import { lstatSync, mkdirSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { DistributedError, world } from "../distributed/index.js";
import { DataError } from "./errors.js";

const DEFAULT = ".cache/data";
/** System errors for folders that cannot be written. */
const NOT_WRITABLE = new Set(["EROFS", "EACCES", "EPERM", "ENOENT", "ENOTSUP"]);

/**
 * Calls `make` with the cache folder for tokens: the chosen one, that of DIFFCODER_CACHE, or .cache/data. If it cannot
 * be written, calls it again with a temporary folder and emits a warning.
 *
 * @param make opens or creates something in a folder; throws DataError DATA_STORE, with the system's error as its
 *   cause, if it cannot
 */
export async function withCache<T>(chosen: string | undefined, make: (folder: string) => Promise<T>): Promise<T> {
  const folder = resolve(chosen ?? (process.env.DIFFCODER_CACHE || DEFAULT));
  try {
    return await make(folder);
  } catch (error) {
    const system = error instanceof DataError && error.code === "DATA_STORE" ? error.cause : undefined;
    const { code = "" } = (system ?? {}) as NodeJS.ErrnoException;
    if (!NOT_WRITABLE.has(code)) throw error;
    const temporary = temporaryFolder();
    const way = "choose another folder with the option cache, --cache-dir or DIFFCODER_CACHE";
    process.emitWarning(`cannot write the token cache ${folder} (${code}), using ${temporary} instead: ${way}`, {
      type: "DataWarning",
      code: "DATA_CACHE",
    });
    return await make(temporary);
  }
}

/** A temporary folder that all processes of a user share and that other users cannot write to. */
function temporaryFolder(): string {
  const user = process.getuid?.();
  const folder = join(tmpdir(), `diffcoder-cache-${user ?? "user"}`);
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const stats = lstatSync(folder);
    const isOwn = user === undefined || (stats.uid === user && (stats.mode & 0o022) === 0);
    return stats.isDirectory() && isOwn ? folder : mkdtempSync(join(tmpdir(), "diffcoder-cache-"));
  } catch (cause) {
    throw new DataError("DATA_STORE", `cannot create a folder for tokens: ${(cause as Error).message}`, { cause });
  }
}

/** Time that one process may take while the others wait. */
const PATIENCE_SECONDS = 24 * 3600;

/**
 * Runs `prepare` first on one process of each machine, then on the others, which find the result on the disk. All
 * processes of a run make the same call. In a single process it just calls `prepare`.
 *
 * @throws DistributedError DISTRIBUTED_PEER on the waiting processes if the first one failed
 */
export async function firstOnMachine<T>(prepare: () => Promise<T>): Promise<T> {
  const joined = world();
  if (!joined) return await prepare();
  const { control, localRank } = joined;
  const isFirst = localRank === 0;
  let outcome: { value?: T; error?: unknown } = {};
  if (isFirst) outcome = await settle(prepare);
  const usual = control.timeout;
  control.timeout = PATIENCE_SECONDS;
  const own = outcome.error === undefined ? null : String(outcome.error);
  const messages = await control.allGatherObject(own).finally(() => {
    control.timeout = usual;
  });
  if (outcome.error !== undefined) throw outcome.error;
  const failed = messages.findIndex((message) => message !== null);
  if (failed >= 0) throw new DistributedError("DISTRIBUTED_PEER", `rank ${failed} failed: ${messages[failed]}`);
  return isFirst ? (outcome.value as T) : await prepare();
}

async function settle<T>(prepare: () => Promise<T>): Promise<{ value?: T; error?: unknown }> {
  try {
    return { value: await prepare() };
  } catch (error) {
    return { error };
  }
}
