import { lstatSync, mkdirSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
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
