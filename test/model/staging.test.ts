import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest";
import { CheckpointError, replaceFolder, stagedFolder } from "../../lib/checkpoint/index.js";
import { finishReplacement } from "../../lib/checkpoint/staging.js";

const root = realpathSync(mkdtempSync(join(tmpdir(), "diffcoder-staging-")));
afterAll(() => rmSync(root, { recursive: true, force: true }));

let home = "";
let folder = "";
let count = 0;
beforeEach(() => {
  home = join(root, String(count++));
  folder = join(home, "model");
  mkdirSync(folder, { recursive: true });
});

const files = (of: string, content: Record<string, string>) => {
  for (const [name, text] of Object.entries(content)) {
    mkdirSync(join(of, name, ".."), { recursive: true });
    writeFileSync(join(of, name), text);
  }
};
const all = (of: string) =>
  Object.fromEntries(
    readdirSync(of, { recursive: true, withFileTypes: true })
      .filter((entry) => !entry.isDirectory())
      .map((entry) => [
        join(entry.parentPath, entry.name).slice(of.length + 1),
        readFileSync(join(entry.parentPath, entry.name), "utf8"),
      ]),
  );
const OLD = { "config.json": "old", "model-00001-of-00002.safetensors": "old", "optimizer.safetensors": "old" };
const NEW = { "config.json": "new", "model.safetensors": "new" };
const save = (target: string) => replaceFolder(target, (staging) => files(staging, NEW));
const failure = async (target: string, write = (staging: string) => files(staging, NEW)) => {
  const error = await replaceFolder(target, write).catch((error: unknown) => error);
  expect(error).toBeInstanceOf(CheckpointError);
  return `${(error as CheckpointError).code} ${(error as Error).message}`;
};

describe("saving over a folder", () => {
  it("replaces the old checkpoint's files, of whatever kind", async () => {
    files(folder, OLD);
    await save(folder);
    expect(all(folder)).toEqual(NEW);
    expect(readdirSync(home)).toEqual(["model"]);
  });

  it("leaves everything else: .git, notes, folders, other weights", async () => {
    const others = {
      ".git/HEAD": "ref",
      "README.md": "mine",
      "data/a.txt": "a",
      "adapter.safetensors": "b",
      "x.py": "c",
    };
    files(folder, { ...OLD, ...others });
    await save(folder);
    expect(all(folder)).toEqual({ ...NEW, ...others });
    await save(folder);
    expect(all(folder)).toEqual({ ...NEW, ...others });
    expect(readdirSync(home)).toEqual(["model"]);
  });

  it("may be the current folder", async () => {
    files(folder, { ...OLD, "notes.txt": "mine" });
    const before = process.cwd;
    process.cwd = () => folder; // a worker thread cannot change it
    try {
      await save(folder);
      rmSync(join(folder, "notes.txt"));
      const inode = lstatSync(folder).ino;
      await save(folder);
      expect(lstatSync(folder).ino).toBe(inode);
    } finally {
      process.cwd = before;
    }
    expect(all(folder)).toEqual(NEW);
  });

  it("goes to where a link points, and removes nothing there", async () => {
    files(folder, { ...OLD, "notes.txt": "mine" });
    const link = join(home, "link");
    symlinkSync(folder, link);
    await save(link);
    expect(lstatSync(link).isSymbolicLink()).toBe(true);
    expect(all(folder)).toEqual({ ...NEW, "notes.txt": "mine" });
    expect(readdirSync(home).sort()).toEqual(["link", "model"]);
  });

  it("replaces links of own names, and not what they point to", async () => {
    const blobs = join(home, "blobs");
    files(blobs, { a: "blob", "b/c": "blob" });
    symlinkSync(join(blobs, "a"), join(folder, "config.json"));
    symlinkSync(join(blobs, "b"), join(folder, "linked"));
    await save(folder);
    expect(all(blobs)).toEqual({ a: "blob", "b/c": "blob" });
    expect(lstatSync(join(folder, "config.json")).isFile()).toBe(true);
    expect(lstatSync(join(folder, "linked")).isSymbolicLink()).toBe(true);
  });

  it("refuses a file, a link to a file and a link to nothing", async () => {
    const file = join(home, "file");
    writeFileSync(file, "mine");
    symlinkSync(file, join(home, "to-file"));
    symlinkSync(join(home, "nothing"), join(home, "to-nothing"));
    expect(await failure(file)).toMatch(/^CHECKPOINT_WRITE cannot save .*file: it is not a folder/);
    expect(await failure(join(home, "to-file"))).toMatch(/to-file: it is not a folder/);
    expect(await failure(join(home, "to-nothing"))).toMatch(/to-nothing: it is a broken link/);
    expect(readFileSync(file, "utf8")).toBe("mine");
  });

  it("refuses a folder with an own file's name in it, before anything changes", async () => {
    files(folder, { "config.json": "old", "model.safetensors/x": "mine" });
    expect(await failure(folder)).toMatch(/CHECKPOINT_WRITE .*model\.safetensors in it is a folder/);
    expect(all(folder)).toEqual({ "config.json": "old", "model.safetensors/x": "mine" });
    expect(readdirSync(home)).toEqual(["model"]);
  });

  it("changes nothing when writing fails", async () => {
    const before = { ...OLD, "notes.txt": "mine" };
    files(folder, before);
    const broken = await failure(folder, (staging) => {
      files(staging, NEW);
      throw Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" });
    });
    expect(broken).toMatch(/^CHECKPOINT_WRITE .*no space left/);
    expect(all(folder)).toEqual(before);
    expect(readdirSync(home)).toEqual(["model"]);
  });
});

describe("a process that dies while a folder with other things is replaced", () => {
  afterEach(() => rmSync(home, { recursive: true, force: true }));

  it.each([0, 1, 2, 3])("leaves a whole checkpoint to read, whatever it did (%d)", async (steps) => {
    files(folder, { ...OLD, "notes.txt": "mine" });
    const next = join(home, ".model.next");
    files(next, NEW);
    if (steps > 0) rmSync(join(folder, "config.json"));
    if (steps > 1) for (const name of Object.keys(OLD)) rmSync(join(folder, name), { force: true });
    if (steps > 2) renameSync(join(next, "model.safetensors"), join(folder, "model.safetensors"));
    if (steps > 2) writeFileSync(join(next, "model.safetensors"), "new");
    expect(all(stagedFolder(folder))).toEqual(NEW);
    // What lies in the folder itself is no half checkpoint: it has no config.json.
    if (steps > 0) expect(existsSync(join(folder, "config.json"))).toBe(false);
    finishReplacement(folder);
    expect(stagedFolder(folder)).toBe(folder);
    expect(all(folder)).toEqual({ ...NEW, "notes.txt": "mine" });
    expect(readdirSync(home)).toEqual(["model"]);
  });

  it("is forgotten by the next save", async () => {
    files(folder, { "notes.txt": "mine" });
    files(join(home, ".model.next"), { "config.json": "lost" });
    await save(folder);
    expect(all(folder)).toEqual({ ...NEW, "notes.txt": "mine" });
    expect(readdirSync(home)).toEqual(["model"]);
  });
});
