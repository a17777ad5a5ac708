import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { afterAll } from "vitest";
import { Tokenizer } from "../../lib/tokenizer/tokenizer.js";

/** The quickstart's tokenizer. */
export const tokenizer = Tokenizer.fromPretrained(fileURLToPath(new URL("../../assets/tokenizer", import.meta.url)));

const folders: string[] = [];
afterAll(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

/** A folder of this test file, removed after it. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "diffcoder-data-"));
  folders.push(folder);
  return folder;
}

/** Writes files, given by name, under a folder. */
export function writeTree(folder: string, files: Record<string, string | Uint8Array>): string {
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), content);
  }
  return folder;
}

/** "CODE message" of what a function throws. */
export function thrownBy(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    return `${(error as { code?: string }).code} ${(error as Error).message}`;
  }
  return "nothing thrown";
}

/** As thrownBy, of a promise. */
export async function rejectionOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    return `${(error as { code?: string }).code} ${(error as Error).message}`;
  }
  return "nothing thrown";
}

/** Any well-formed text: half of its characters from all of Unicode, half from its start. */
export function anyText(maxLength: number): fc.Arbitrary<string> {
  // Surrogates are no characters; the numbers above them move down by theirs.
  const skipSurrogates = (code: number) => String.fromCodePoint(code < 0xd800 ? code : code + 0x800);
  const character = fc
    .oneof(fc.integer({ min: 0, max: 0x10f7ff }), fc.integer({ min: 0, max: 0x2ff }))
    .map(skipSurrogates);
  return fc.array(character, { maxLength }).map((characters) => characters.join(""));
}
