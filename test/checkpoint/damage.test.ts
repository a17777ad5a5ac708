import { execFileSync, spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { CheckpointStore, StableDiffCoder } from "../../lib/checkpoint/index.js";
import { shareOfFiles } from "../../lib/checkpoint/store.js";
import * as torch from "../../lib/torch/index.js";
import { failWriter } from "../train/faults.js";
import {
  bitsOf,
  checkpointsOf,
  contentOf,
  contentsOf,
  reportsOf,
  restore,
  saveTogether,
  storesOf,
  temporaryFolder,
  trained,
} from "./support.js";

const SHARD = "shard-00001-of-00003.safetensors";

/** A run of three ranks with the checkpoints of steps 1 and 2. */
async function twoCheckpoints() {
  const run = temporaryFolder();
  const whole = trained();
  const stores = storesOf(run, 3);
  await torch.scope(async () => {
    for (const step of [1, 2]) await saveTogether(stores, `step-00000${step}`, contentsOf(whole, 3, undefined, step));
  });
  return { run, whole, stores, newest: join(run, "checkpoints", "step-000002") };
}

function flipBit(path: string, fromEnd = 100): void {
  const bytes = readFileSync(path);
  bytes[bytes.length - fromEnd] ^= 4;
  writeFileSync(path, bytes);
}

function edit(path: string, change: (text: string) => string): void {
  const text = readFileSync(path, "utf8");
  const changed = change(text);
  expect(changed).not.toBe(text);
  writeFileSync(path, changed);
}

describe("a damaged checkpoint of several processes is found, and the one before used", () => {
  it.each<[string, (folder: string) => void, RegExp]>([
    [
      "a flipped bit",
      (folder) => flipBit(join(folder, SHARD)),
      /shard-00001-of-00003\.safetensors does not match its checksum/,
    ],
    [
      "a flipped bit in a header",
      (folder) => flipBit(join(folder, SHARD), 9000),
      /shard-00001.* does not match its checksum/,
    ],
    [
      "a truncated shard",
      (folder) => truncateSync(join(folder, SHARD), 1000),
      /shard-00001.* has 1000 bytes instead of \d+/,
    ],
    ["an empty shard", (folder) => truncateSync(join(folder, SHARD), 0), /shard-00001.* has 0 bytes instead of \d+/],
    ["a missing shard", (folder) => rmSync(join(folder, SHARD)), /shard-00001-of-00003\.safetensors is missing/],
    ["a missing manifest", (folder) => rmSync(join(folder, "manifest.json")), /it has no manifest\.json/],
    ["a torn manifest", (folder) => truncateSync(join(folder, "manifest.json"), 2000), /manifest\.json is damaged/],
    [
      "a manifest with another slice",
      (folder) => edit(join(folder, "manifest.json"), (text) => text.replace("[1,[16,0]", "[1,[17,0]")),
      /manifest\.json is damaged/,
    ],
    [
      "a manifest that names a file outside",
      (folder) => edit(join(folder, "manifest.json"), (text) => text.replaceAll(SHARD, `../step-000001/${SHARD}`)),
      /manifest\.json is damaged/,
    ],
    [
      "a changed config",
      (folder) => edit(join(folder, "config.json"), (text) => text.replace("48", "49")),
      /config\.json does not match/,
    ],
  ])("%s", async (_, damage, message) => {
    const { run, newest } = await twoCheckpoints();
    damage(newest);
    const warnings: string[] = [];
    const found = await new CheckpointStore(run, 2).newest((warning) => warnings.push(warning));
    expect(found?.name).toBe("step-000001");
    expect(warnings).toEqual([expect.stringMatching(message)]);
    expect(warnings[0]).toMatch(/^checkpoint step-000002: .*: resuming from step-000001$/);
  });

  it("and what was changed behind the hashes' back is refused while loading", async () => {
    const { whole, newest } = await twoCheckpoints();
    const load = () => StableDiffCoder.fromPretrained(newest);
    const manifest = readFileSync(join(newest, "manifest.json"));
    truncateSync(join(newest, "manifest.json"), 500);
    await expect(load()).rejects.toMatchObject({ code: "CHECKPOINT_CORRUPT", message: /manifest\.json is damaged/ });
    rmSync(join(newest, "manifest.json"));
    await expect(load()).rejects.toMatchObject({
      code: "CHECKPOINT_MISSING",
      message: /it has shards, but no manifest/,
    });
    writeFileSync(join(newest, "manifest.json"), manifest);
    const shard = readFileSync(join(newest, SHARD));
    truncateSync(join(newest, SHARD), shard.length - 4);
    await expect(load()).rejects.toMatchObject({ code: "CHECKPOINT_CORRUPT", message: /shard-00001.*cannot be read/ });
    rmSync(join(newest, SHARD));
    await expect(load()).rejects.toMatchObject({ code: "CHECKPOINT_MISSING", message: /shard-00001.* is missing/ });
    writeFileSync(join(newest, SHARD), readFileSync(join(newest, SHARD.replace("00001", "00002"))));
    await expect(load()).rejects.toMatchObject({ code: "CHECKPOINT_CORRUPT" });
    writeFileSync(join(newest, SHARD), shard);
    using loaded = await load();
    expect(bitsOf(loaded.model.namedParameters())).toEqual(bitsOf(whole.model.namedParameters()));
  });

  it("also when each process hashes its share of the files only", async () => {
    const { run, stores, newest } = await twoCheckpoints();
    flipBit(join(newest, SHARD));
    const { readable } = new CheckpointStore(run, 2).candidates();
    expect(readable.map(({ name }) => name)).toEqual(["step-000002", "step-000001"]);
    const shares = stores.map(({ world }) => shareOfFiles(readable[0], world));
    const all = Object.keys(JSON.parse(readFileSync(join(newest, "manifest.json"), "utf8")).files);
    expect(shares.flat().sort()).toEqual(all.sort());
    const problems = await Promise.all(shares.map((files, rank) => stores[rank].verify(readable[0], { files })));
    expect(problems.map((problem) => problem !== undefined)).toEqual(shares.map((files) => files.includes(SHARD)));
  });

  it("when none is whole it is an error that lists them", async () => {
    const { run, stores } = await twoCheckpoints();
    for (const name of ["step-000001", "step-000002"]) truncateSync(join(run, "checkpoints", name, SHARD), 9);
    await expect(stores[0].newest(() => {})).rejects.toMatchObject({
      code: "CHECKPOINT_CORRUPT",
      message: expect.stringMatching(/step-000002: .*\n.*step-000001: /),
    });
  });
});

describe("what a killed process left", () => {
  it("is put away by the next one's rank 0: staging folders, and the two halves of a replaced checkpoint", async () => {
    const { run, whole } = await twoCheckpoints();
    const at = (name: string) => join(run, "checkpoints", name);
    for (const name of [".step-000003.4.tmp", ".final.9.tmp"]) {
      mkdirSync(at(name));
      writeFileSync(join(at(name), SHARD), "half");
    }
    renameSync(at("step-000002"), at(".step-000002.previous"));
    const other = new CheckpointStore(run, 2, { rank: 1, size: 3 });
    expect(checkpointsOf(run)).toHaveLength(4);
    expect(other.candidates().readable.map(({ name }) => name)).toEqual(["step-000001"]);
    const store = new CheckpointStore(run, 2);
    expect(checkpointsOf(run)).toEqual(["step-000001", "step-000002"]);
    const found = await store.newest(() => {});
    const model = trained(5).model;
    if (found) await restore(found, { model });
    expect(bitsOf(model.namedParameters())).toEqual(bitsOf(whole.model.namedParameters()));
  });

  const child = fileURLToPath(new URL("crash-child.ts", import.meta.url));
  const run = (...args: string[]) =>
    spawnSync(process.execPath, ["--import", import.meta.resolve("tsx"), child, ...args], {
      encoding: "utf8",
      timeout: 600_000,
    });

  /** How many writing calls the second save of the child is. */
  async function callsOfSave(): Promise<number> {
    const stores = storesOf(temporaryFolder(), 2);
    return torch.scope(async () => {
      const contents = contentsOf(trained(), 2, undefined, 2);
      using faults = failWriter(0);
      await saveTogether(stores, "step-000002", contents);
      return faults.count;
    });
  }

  it.each<[string, number]>([
    ["before its first call", 0],
    ["in the shards", 0.4],
    ["before the rename that counts", -2],
    ["after it", -1],
  ])("while saving, %s, is no checkpoint, or a whole one", async (_, place) => {
    const calls = await callsOfSave();
    const out = temporaryFolder();
    const { signal, stderr } = run(out, "killed", "2", String(place < 0 ? calls + 1 + place : 1 + place * calls));
    expect(signal, stderr).toBe("SIGKILL");
    const committed = existsSync(join(out, "checkpoints", "step-000002"));
    expect(committed).toBe(place === -1);
    const warnings: string[] = [];
    const found = await new CheckpointStore(out, 2).newest((warning) => warnings.push(warning));
    expect(found?.name).toBe(committed ? "step-000002" : "step-000001");
    expect(warnings).toEqual([]);
    expect(checkpointsOf(out).filter((name) => name.startsWith("."))).toEqual([]);
    const model = trained(5).model;
    if (found) await restore(found, { model });
    expect(bitsOf(model.namedParameters())).toEqual(bitsOf(trained().model.namedParameters()));
  });

  it.each([
    ["idle", ["step-000001"]],
    ["exit", ["step-000001"]],
    ["unwaited", ["step-000001"]],
  ])("an end with the thread %s is prompt, and tears nothing", async (how, names) => {
    const out = temporaryFolder();
    const { status, stderr, signal } = run(out, how, "2");
    expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: "" });
    const store = new CheckpointStore(out, 2);
    expect(checkpointsOf(out)).toEqual(names);
    expect((await store.newest(() => {}))?.name).toBe("step-000001");
  });
});

describe("a write that fails", () => {
  it("at any call leaves the earlier checkpoint and nothing else", async () => {
    const { run, whole, stores } = await twoCheckpoints();
    let calls = 0;
    for (let at = 0; at <= calls; at += at < 8 || at > calls - 8 ? 1 : 3) {
      let name = `step-${String(100 + at).padStart(6, "0")}`;
      await torch.scope(async () => {
        const contents = contentsOf(whole, 3, undefined, 100 + at);
        const faults = failWriter(at);
        const pending = await Promise.all(stores.map((store, rank) => store.begin(name, contents[rank])));
        const ended = await Promise.allSettled(pending.map(({ done }) => done));
        let failed = ended.some(({ status }) => status === "rejected");
        if (failed) {
          for (const [rank, { status }] of ended.entries()) {
            expect(pending[rank].error !== undefined).toBe(status === "rejected");
          }
          const error = pending.find((each) => each.error)?.error;
          expect(error).toMatchObject({
            code: "CHECKPOINT_WRITE",
            message: expect.stringMatching(/cannot save .*ENOSPC/),
          });
          faults[Symbol.dispose]();
          await Promise.all(pending.map((each) => each.abort()));
        } else {
          const commit = stores[0].commit(pending[0], await reportsOf(pending));
          failed = await commit.then(
            () => false,
            () => true,
          );
          if (failed) await expect(commit).rejects.toMatchObject({ code: "CHECKPOINT_WRITE", message: /ENOSPC/ });
          if (at === 0) calls = faults.count;
          faults[Symbol.dispose]();
        }
        // From the rename on it is there, whatever happens to what is flushed after it.
        if (!existsSync(join(run, "checkpoints", name))) {
          expect(failed).toBe(true);
          name = "";
        }
      });
      const left = checkpointsOf(run);
      expect(left.filter((each) => each.startsWith("."))).toEqual([]);
      expect(left.includes(name)).toBe(name !== "");
      const found = await stores[0].newest((warning) => expect.unreachable(warning));
      expect(found?.name).toBe(left.at(-1));
    }
    expect(calls).toBeGreaterThan(20);
  });

  it("into a folder that cannot be written", async ({ skip }) => {
    const run = temporaryFolder();
    const store = new CheckpointStore(run, 2);
    await store.save("step-000001", contentOf(trained(), 1));
    using _readOnly = makeReadOnly(store.folder, skip);
    const save = store.save("step-000002", contentOf(trained(), 2));
    await expect(save).rejects.toMatchObject({ code: "CHECKPOINT_WRITE", message: /EACCES|EROFS/ });
    expect(checkpointsOf(run)).toEqual(["step-000001"]);
    expect(await store.newest(() => {})).toMatchObject({ name: "step-000001" });
  });

  it("on a disk that the processes do not share says so", async () => {
    const [here, elsewhere] = [temporaryFolder(), temporaryFolder()];
    const store = new CheckpointStore(here, 2, { rank: 0, size: 2 });
    const other = new CheckpointStore(elsewhere, 2, { rank: 1, size: 2 });
    await torch.scope(async () => {
      const contents = contentsOf(trained(), 2);
      const pending = [await store.begin("final", contents[0]), await other.begin("final", contents[1])];
      await expect(store.commit(pending[0], await reportsOf(pending))).rejects.toMatchObject({
        code: "CHECKPOINT_WRITE",
        message: expect.stringMatching(
          /shard-00001.*, which rank 1 wrote, does not exist here: .* file system that all .* share/,
        ),
      });
    });
    expect(checkpointsOf(here)).toEqual([]);
  });

  it("is a commit without a report of every rank", async () => {
    const run = temporaryFolder();
    const stores = storesOf(run, 2);
    await torch.scope(async () => {
      const contents = contentsOf(trained(), 2);
      const pending = await Promise.all(stores.map((store, rank) => store.begin("final", contents[rank])));
      const [report] = await reportsOf(pending);
      await expect(stores[0].commit(pending[0], [report])).rejects.toThrow(/rank 1 did not report/);
    });
  });
});

/** Makes a folder read-only until it is disposed of: root may write wherever permissions forbid it, but not there. */
function makeReadOnly(folder: string, skip: (note: string) => void): Disposable {
  if (process.getuid?.() !== 0) {
    chmodSync(folder, 0o555);
    return { [Symbol.dispose]: () => chmodSync(folder, 0o755) };
  }
  const mount = (...args: string[]) => spawnSync("mount", args).status === 0;
  if (!mount("--bind", folder, folder)) skip("mounting a file system is not allowed here");
  if (!mount("-o", "remount,ro,bind", folder)) skip("remounting is not allowed here");
  return { [Symbol.dispose]: () => void execFileSync("umount", [folder]) };
}
