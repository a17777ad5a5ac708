// Stamps: what a product was made from. A product is stale when its stamp is not what would be written now.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";

/** Files below a folder that `accept` takes, sorted. */
export function filesBelow(folder, accept) {
  let entries;
  try {
    entries = readdirSync(folder, { recursive: true, withFileTypes: true });
  } catch (error) {
    if (error.code === "ENOENT") return [];
    throw error;
  }
  return entries
    .filter((entry) => entry.isFile() && accept(entry.name))
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .sort();
}

/**
 * A hash over names and contents of files: changes when one is edited, added or removed, and not when a checkout is moved,
 * copied or cloned, which gives files new times.
 * @param {string} root names are taken relative to it
 * @param {string[]} files
 */
export function fingerprint(root, files) {
  const hash = createHash("sha256");
  for (const file of files) {
    const content = existsSync(file) ? readFileSync(file) : null;
    hash.update(`${relative(root, file)}\0${content?.length ?? -1}\0`);
    if (content) hash.update(content);
  }
  return hash.digest("hex").slice(0, 32);
}

/** @returns {Record<string, unknown> | null} null if there is none or it cannot be read */
export function readStamp(path) {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch {
    return null;
  }
}

/** Writes a stamp whole or not at all. */
export function writeStamp(path, stamp) {
  mkdirSync(dirname(path), { recursive: true });
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, `${JSON.stringify(stamp, null, 2)}\n`);
  renameSync(temporary, path);
}

/**
 * Names of the entries in which two stamps differ.
 * @param {Record<string, unknown> | null} found
 * @param {Record<string, unknown>} wanted
 * @returns {string[]} empty: not stale
 */
export function staleEntries(found, wanted) {
  if (found === null) return ["never made"];
  return Object.keys(wanted).filter((key) => JSON.stringify(found[key]) !== JSON.stringify(wanted[key]));
}
