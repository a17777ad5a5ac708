// Built addons in the user's cache: a second checkout, or a clone made anew, takes the one that was built from the same sources.
import { createHash, randomUUID } from "node:crypto";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, utimesSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { readStamp, writeStamp } from "./stamp.mjs";

/** Entries that are kept; the one that was not used for the longest time goes first. An addon has 3 to 10 MB. */
export const keptEntries = 8;
/** A temporary folder of this age was left by a set-up that was killed. */
const abandonedAfter = 3_600_000;

/**
 * The folder of the cache: DIFFCODER_ADDON_CACHE, else diffcoder/addons in XDG_CACHE_HOME or the system's usual folder.
 * @param {NodeJS.ProcessEnv} [env]
 * @returns {string | null} null if DIFFCODER_ADDON_CACHE is "off"
 */
export function addonCacheFolder(env = process.env) {
  const given = env.DIFFCODER_ADDON_CACHE;
  if (given === "off") return null;
  if (given) return resolve(given);
  const home = env.HOME || homedir();
  const usual = process.platform === "darwin" ? join(home, "Library", "Caches") : join(home, ".cache");
  return join(env.XDG_CACHE_HOME || usual, "diffcoder", "addons");
}

function digest(path) {
  return createHash("sha256").update(readFileSync(path)).digest("hex");
}

/**
 * Copies the addon of a key to `target`. An entry that is not whole is removed.
 * @param {string | null} folder
 * @param {string} key
 * @param {string} target
 * @returns {boolean} whether there was one
 */
export function takeAddon(folder, key, target) {
  if (folder === null) return false;
  const entry = join(folder, key);
  const about = readStamp(join(entry, "addon.json"));
  const temporary = `${target}.${process.pid}.tmp`;
  try {
    if (about === null) throw new Error("no addon.json");
    mkdirSync(dirname(target), { recursive: true });
    copyFileSync(join(entry, "diffcoder.node"), temporary);
    // The copy is what is compared: another set-up may remove the entry meanwhile.
    if (digest(temporary) !== about.sha256) throw new Error("another content");
    renameSync(temporary, target);
  } catch {
    rmSync(temporary, { force: true });
    rmSync(entry, { recursive: true, force: true });
    return false;
  }
  try {
    utimesSync(entry, new Date(), new Date());
  } catch {
    // removed by another set-up: the copy is whole all the same
  }
  return true;
}

/** Removes the entries that were not used for the longest time, and what killed set-ups left. */
function prune(folder) {
  const entries = readdirSync(folder)
    .map((name) => ({ name, used: statSync(join(folder, name), { throwIfNoEntry: false })?.mtimeMs ?? 0 }))
    .sort((a, b) => b.used - a.used);
  const temporary = entries.filter(({ name }) => name.startsWith("."));
  const whole = entries.filter(({ name }) => !name.startsWith("."));
  const old = temporary.filter(({ used }) => Date.now() - used > abandonedAfter);
  for (const { name } of [...whole.slice(keptEntries), ...old]) {
    rmSync(join(folder, name), { recursive: true, force: true });
  }
}

/**
 * Keeps a built addon under its key. An entry appears whole or not at all; of two set-ups that keep the same one, the first
 * wins. A cache that cannot be written is no reason to fail: then nothing is kept.
 * @param {string | null} folder
 * @param {string} key
 * @param {string} addon
 * @returns {boolean} whether the cache has it now
 */
export function keepAddon(folder, key, addon) {
  if (folder === null) return false;
  const temporary = join(folder, `.${key}-${randomUUID()}`);
  try {
    mkdirSync(temporary, { recursive: true });
    const copy = join(temporary, "diffcoder.node");
    copyFileSync(addon, copy);
    writeStamp(join(temporary, "addon.json"), { sha256: digest(copy) });
    try {
      renameSync(temporary, join(folder, key));
    } catch (error) {
      if (!["EEXIST", "ENOTEMPTY"].includes(error.code)) throw error;
      rmSync(temporary, { recursive: true, force: true });
    }
    prune(folder);
    return true;
  } catch {
    rmSync(temporary, { recursive: true, force: true });
    return false;
  }
}
