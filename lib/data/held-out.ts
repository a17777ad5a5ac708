import { createHash } from "node:crypto";
import type { SourceFile } from "./file-walk.js";

/** Hashes words to a number in [0, 2^48), the same on every machine. */
export function hashNumber(...words: (string | number)[]): number {
  return createHash("sha256").update(words.join("\0")).digest().readUIntBE(0, 6);
}

/** Whether a record is held out. The decision depends on its text, so that it is unchanged when the file grows. */
export function isRecordHeldOut(text: string, fraction: number, seed: number): boolean {
  return hashNumber("record", seed, text) < fraction * 2 ** 48;
}

/** A folder, package or file, with its files and size. */
interface Branch {
  name: string;
  bytes: number;
  files: SourceFile[];
}

/**
 * Chooses files to hold out, about `fraction` of all bytes. Whole packages or top-level folders are chosen, so that
 * near-duplicates fall on one side, in an order that depends on names and seed only. Groups larger than half of the
 * target are passed over; if too few bytes are left, the large groups are split by folder.
 *
 * @returns the held-out files
 */
export function chooseHeldOut(files: readonly SourceFile[], fraction: number, seed: number): Set<SourceFile> {
  const target = fraction * files.reduce((sum, file) => sum + file.bytes, 0);
  if (target <= 0) return new Set();
  const deepest = files.reduce((most, file) => Math.max(most, file.name.split("/").length), 0);
  let branches = branchesBy(files, (file) => file.group);
  for (let depth = 1; ; depth++) {
    const { chosen, bytes } = take(branches, target, seed);
    if (bytes >= 0.5 * target || depth > deepest) {
      if (chosen.size > 0 || files.length < 2) return chosen;
      // Every file is larger than the target: take the smallest.
      return new Set([files.reduce((a, b) => (b.bytes < a.bytes ? b : a))]);
    }
    branches = branches.flatMap((branch) => (branch.bytes > 0.5 * target ? takeApart(branch, depth) : [branch]));
  }
}

/** Chooses greedily in hash order, up to 1.25 times the target, without branches larger than half of it. */
function take(branches: readonly Branch[], target: number, seed: number): { chosen: Set<SourceFile>; bytes: number } {
  const order = branches.map((branch) => ({ branch, at: hashNumber("group", seed, branch.name) }));
  order.sort((a, b) => a.at - b.at);
  const chosen = new Set<SourceFile>();
  let bytes = 0;
  for (const { branch } of order) {
    if (bytes >= target) break;
    if (branch.bytes > 0.5 * target || bytes + branch.bytes > 1.25 * target) continue;
    bytes += branch.bytes;
    for (const file of branch.files) chosen.add(file);
  }
  return { chosen, bytes };
}

/** Splits a branch by the folders one level deeper; a file is unchanged. */
function takeApart(branch: Branch, depth: number): Branch[] {
  return branchesBy(branch.files, (file) => {
    const parts = file.name.split("/");
    return `${branch.name}\0${parts.slice(0, Math.min(depth + 1, parts.length)).join("/")}`;
  });
}

function branchesBy(files: readonly SourceFile[], nameOf: (file: SourceFile) => string): Branch[] {
  const branches = new Map<string, Branch>();
  for (const file of files) {
    const name = nameOf(file);
    const branch = branches.get(name) ?? { name, bytes: 0, files: [] };
    branches.set(name, branch);
    branch.bytes += file.bytes;
    branch.files.push(file);
  }
  return [...branches.values()];
}
