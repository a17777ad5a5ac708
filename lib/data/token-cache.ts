import { lstatSync, mkdirSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { DistributedError, world } from "../distributed/index.js";
import { DataError } from "./errors.js";

const DEFAULT = ".cache/data";
/** What the system says of folders where nothing can be made. */
const NOT_WRITABLE = new Set(["EROFS", "EACCES", "EPERM", "ENOENT", "ENOTSUP"]);

/**
 * Does what needs a folder that keeps tokens: the chosen one, that of DIFFCODER_CACHE, or .cache/data. Where nothing can be
 * written there it is done in a temporary one, and the process is warned.
 *
 * @param make opens or makes something in a folder; DataError DATA_STORE with the system's error as its cause if it cannot
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
    const way = "choose another with the option cache, --cache-dir or DIFFCODER_CACHE";
    process.emitWarning(`tokens cannot be kept in ${folder} (${code}); they are in ${temporary} now: ${way}`, {
      type: "DataWarning",
      code: "DATA_CACHE",
    });
    return await make(temporary);
  }
}

/** The same for all processes of a user, who find each other's tokens there; nobody else can put something into it. */
function temporaryFolder(): string {
  const user = process.getuid?.();
  const folder = join(tmpdir(), `diffcoder-cache-${user ?? "user"}`);
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const stats = lstatSync(folder);
    const isOwn = user === undefined || (stats.uid === user && (stats.mode & 0o022) === 0);
    return stats.isDirectory() && isOwn ? folder : mkdtempSync(join(tmpdir(), "diffcoder-cache-"));
  } catch (cause) {
    throw new DataError("DATA_STORE", `no folder for tokens: ${(cause as Error).message}`, { cause });
  }
}

/** How long one process may prepare while the others wait. */
const PATIENCE_SECONDS = 24 * 3600;

/**
 * Has one process of each machine do what leaves something on its disk, and the others after it, who then find it done.
 * All processes of a run call it alike. A process of its own just does it.
 *
 * @throws DistributedError DISTRIBUTED_PEER on the processes that waited for one that failed
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
