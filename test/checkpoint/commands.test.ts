import { existsSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { CheckpointStore, StableDiffCoder } from "../../lib/checkpoint/index.js";
import { exportModel } from "../../lib/cli/checkpoint/run.js";
import * as torch from "../../lib/torch/index.js";
import { expectExplained, type RunOptions, run as start } from "../cli/support.js";
import { fixture } from "../nn/golden.js";
import { bitsOf, contentOf, contentsOf, saveTogether, storesOf, temporaryFolder, trained } from "./support.js";

const main = fileURLToPath(new URL("../../lib/cli/main.ts", import.meta.url));

/** The command line, from source. */
const checkpoint = (args: string[], options?: RunOptions) =>
  start(process.execPath, ["--import", import.meta.resolve("tsx"), main, "checkpoint", ...args], options);

/** A run with a checkpoint of one process, two of three, and a folder that is none. */
async function someRun() {
  const run = temporaryFolder();
  const whole = trained();
  await new CheckpointStore(run, 9).save("pre-anneal", contentOf(whole, 4));
  const stores = storesOf(run, 3, 9);
  await torch.scope(async () => {
    for (const step of [6, 8]) await saveTogether(stores, `step-00000${step}`, contentsOf(whole, 3, undefined, step));
  });
  mkdirSync(join(run, "checkpoints", "half"));
  return { run, whole, at: (...path: string[]) => join(run, "checkpoints", ...path) };
}

const SHARD = "shard-00002-of-00003.safetensors";

describe("diffcoder checkpoint", () => {
  it("ls lists them, the newest first, with what is missing", async () => {
    const { run, at } = await someRun();
    truncateSync(at("step-000006", SHARD), 10);
    const { code, stdout, stderr } = await checkpoint(["ls", run]);
    expect(code, stderr).toBe(0);
    const lines = stdout.trimEnd().split("\n");
    expect(lines.map((line) => line.split(/\s+/)[0])).toEqual([
      "NAME",
      "step-000008",
      "step-000006",
      "pre-anneal",
      "half",
    ]);
    expect(lines[1]).toMatch(/^step-000008 +8 +cpt, 8 +\d{4}-\d\d-\d\d \d\d:\d\d +3 +\S+[kM]B +complete$/);
    expect(lines[2]).toMatch(/ 3 +\S+[kM]B +shard-00002-of-00003\.safetensors has 10 bytes instead of \d+$/);
    expect(lines[3]).toMatch(/^pre-anneal +4 +cpt, 4 .* 1 +\S+[kM]B +complete$/);
    expect(lines[4]).toMatch(/^half +\? .*it has no trainer\.json$/);
    const json = JSON.parse((await checkpoint(["ls", run, "--json"])).stdout);
    expect(json).toHaveLength(4);
    expect(json[0]).toMatchObject({
      name: "step-000008",
      globalStep: 8,
      stage: "cpt",
      step: 8,
      worldSize: 3,
      problem: null,
    });
    expect(json[1].problem).toMatch(/has 10 bytes/);
  });

  it("verify reads every file, names the damaged ones, and ends with code 1", async () => {
    const { run, at } = await someRun();
    const newest = await checkpoint(["verify", run]);
    expect(newest).toMatchObject({ code: 0, stderr: "", stdout: expect.stringMatching(/^\S*step-000008: whole\n$/) });
    const bytes = readFileSync(at("step-000006", SHARD));
    bytes[bytes.length - 9] ^= 1;
    writeFileSync(at("step-000006", SHARD), bytes);
    rmSync(at("step-000006", "config.json"));
    rmSync(at("half"), { recursive: true });
    const all = await checkpoint(["verify", "--all", run]);
    expect(all.code).toBe(1);
    expect(all.stdout.trim().split("\n")).toEqual([
      expect.stringMatching(/step-000008: whole$/),
      expect.stringMatching(/step-000006: config\.json is missing$/),
      expect.stringMatching(/step-000006: shard-00002-of-00003\.safetensors does not match its checksum$/),
      expect.stringMatching(/pre-anneal: whole$/),
    ]);
    const one = await checkpoint(["verify", at("step-000006")]);
    expect([one.code, one.stdout.split("\n").length]).toEqual([1, 3]);
    const model = await checkpoint(["verify", fixture("llama")]);
    expectExplained(model, /is a model, not a checkpoint of a run: it has no manifest/);
  });

  it("export writes a model that loads, and takes care what it replaces", async () => {
    const { run, whole, at } = await someRun();
    const out = join(run, "exported");
    const { code, stdout, stderr } = await checkpoint([
      "export",
      at("step-000008"),
      "--out",
      out,
      "--max-shard",
      "10kB",
    ]);
    expect(code, stderr).toBe(0);
    expect(stdout).toMatch(/exported: \S+B\nTry it: npx diffcoder generate /);
    expect(existsSync(join(out, "model.safetensors.index.json"))).toBe(true);
    using loaded = await StableDiffCoder.fromPretrained(out);
    expect(bitsOf(loaded.model.namedParameters())).toEqual(bitsOf(whole.model.namedParameters()));
    const to = (target: string, from = at("step-000008")) => exportModel(from, { out: target, maxShard: 5e9 });
    await expect(to(at("step-000008"))).rejects.toThrow(/would replace the checkpoint itself/);
    await expect(to(run)).rejects.toThrow(/would replace the checkpoint itself/);
    await expect(to(at("pre-anneal"))).rejects.toThrow(/is a checkpoint of a run/);
    mkdirSync(join(run, "other"));
    writeFileSync(join(run, "other", "thesis.txt"), "");
    await expect(to(join(run, "other"))).rejects.toThrow(/is not empty and is not a model/);
    await expect(to(join(run, "nowhere"), run)).rejects.toThrow(
      /is not a checkpoint. It may be a run[\s\S]*step-000008/,
    );
    expect(existsSync(join(run, "other", "thesis.txt"))).toBe(true);
  });
});
