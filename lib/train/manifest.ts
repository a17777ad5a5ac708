import { createHash } from "node:crypto";
import { createReadStream, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";

const MANIFEST_FILE = "manifest.json";

const manifestSchema = z.object({
  format: z.literal(1),
  files: z.record(z.string(), z.object({ bytes: z.int().min(0), sha256: z.string() })),
});

/** Writes manifest.json: size and SHA-256 of every file in a folder. To be written last. */
export async function writeManifest(folder: string): Promise<void> {
  const files: z.infer<typeof manifestSchema>["files"] = {};
  for (const name of readdirSync(folder).sort()) {
    const path = join(folder, name);
    if (name === MANIFEST_FILE || !statSync(path).isFile()) continue;
    files[name] = { bytes: statSync(path).size, sha256: await hashFile(path) };
  }
  writeFileSync(join(folder, MANIFEST_FILE), `${JSON.stringify({ format: 1, files }, null, 2)}\n`);
}

/**
 * Compares a folder with its manifest.
 *
 * @returns what is wrong with it, undefined if it is whole. Sizes are looked at first, so that a truncated file is found
 * without reading the others.
 */
export async function findDamage(folder: string): Promise<string | undefined> {
  const path = join(folder, MANIFEST_FILE);
  if (!existsSync(path)) return `it has no ${MANIFEST_FILE}`;
  let manifest: z.infer<typeof manifestSchema>;
  try {
    manifest = manifestSchema.parse(JSON.parse(readFileSync(path, "utf8")));
  } catch {
    return `${MANIFEST_FILE} is damaged`;
  }
  const files = Object.entries(manifest.files);
  for (const [name, { bytes }] of files) {
    const found = statSync(join(folder, name), { throwIfNoEntry: false });
    if (!found) return `${name} is missing`;
    if (found.size !== bytes) return `${name} has ${found.size} bytes of ${bytes}`;
  }
  for (const [name, { sha256 }] of files) {
    if ((await hashFile(join(folder, name))) !== sha256) return `${name} is not what was written`;
  }
  return undefined;
}

async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  return hash.digest("hex");
}
