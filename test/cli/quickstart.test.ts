import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { stepsFor } from "../../lib/cli/quickstart/curriculum.js";
import { calibrate } from "../../lib/cli/quickstart/measure.js";
import { prepareData } from "../../lib/data/index.js";
import { Tokenizer } from "../../lib/tokenizer/index.js";
import { blocksOf } from "../docs/markdown.js";
import { diffcoder, type Ended, eventsOf, expectExplained, scratchFolder, someCode, TOKENIZER } from "./support.js";

const folder = scratchFolder();
let code: string;
let out: string;
let first: Ended;

beforeAll(async () => {
  code = someCode(folder.path);
  out = join(folder.path, "run");
  first = await diffcoder(["quickstart", "--steps", "4,3,2", "--data", code, "--output-dir", out]);
});

describe("quickstart", () => {
  it("goes through the curriculum, and says what came out and what to type next", () => {
    expect(first.code, first.stderr).toBe(0);
    for (const line of [
      /^\d+ documents, \d\.\d+ MB \(\.ts/m,
      /^held out: \d+ documents/m,
      /^steps: 4 AR, 3 \+ 2 block diffusion \(B = 4\)$/m,
      /^ {2}gzip -9 +\d\.\d{3}$/m,
      /^ {2}AR, pre-anneal checkpoint +\d+\.\d{3}$/m,
      /^ {2}block diffusion, final \(upper bound\) +\d+\.\d{3} ± \d\.\d{3}$/m,
      /report\.html$/m,
      /npx diffcoder generate \S+\/checkpoints\/final 'def main\('$/m,
    ]) {
      expect(first.stdout).toMatch(line);
    }
    const completed = first.stdout.match(/^block diffusion: 64 tokens in \d+ forwards; AR: 64 in 64$/gm);
    expect(completed).toHaveLength(3);
    // Progress goes to standard error.
    expect(first.stderr).toMatch(/stage 1\/3: compress[\s\S]*stage 2\/3: cpt[\s\S]*stage 3\/3: anneal/);
  });

  it("says what the README shows", () => {
    const fixed =
      /^(Data|Training|Held-out|Three held|Done|What next|held out:|steps:|\d+ bytes|block diffusion:| {2}(gzip|AR|block|complete|the same|train|a curr))/;
    const shape = (line: string) => line.replaceAll(/\S*\/(?=checkpoints|report)/g, "").replaceAll(/\d[\d.,]*/g, "#");
    const readme = blocksOf("README.md").find(({ mark }) => mark === "quickstart output");
    const shown =
      readme?.text
        .split("\n")
        .filter((line) => fixed.test(line))
        .map(shape) ?? [];
    expect(shown.length).toBeGreaterThan(14);
    expect(first.stdout.split("\n").map(shape)).toEqual(expect.arrayContaining(shown));
  });

  it("leaves checkpoints in Hugging Face layout and the numbers of every step", () => {
    for (const name of ["pre-anneal", "final"]) {
      const files = readdirSync(join(out, "checkpoints", name));
      const expected = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"];
      expect(files).toEqual(expect.arrayContaining(expected));
    }
    const steps = eventsOf(out).filter((event) => event.type === "step");
    expect(steps.map((event) => event.globalStep)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    const metrics = steps.map((event) => event.metrics as Record<string, number>);
    for (const step of metrics) expect(step).toMatchObject({ loss: expect.any(Number), grad_norm: expect.any(Number) });
    for (const step of metrics.slice(4)) {
      expect(step.u_max).toBeGreaterThan(0);
      expect(step.masked_share).toBeGreaterThanOrEqual(0);
    }
  });

  it("leaves a report that needs no network and no other file", () => {
    const page = readFileSync(join(out, "report.html"), "utf8");
    expect(page).not.toMatch(
      /(?:src|href|action)\s*=\s*["']?\s*(?:https?:)?\/\/|@import|url\(\s*["']?(?:https?:)?\/\//i,
    );
    expect(page).not.toMatch(/\bfetch\(|XMLHttpRequest|<link|<script[^>]+src=|<img/i);
    const state = JSON.parse(page.match(/<script type="application\/json" id="run">(.*?)<\/script>/s)?.[1] ?? "");
    expect(state.state).toBe("done");
    expect(state.stages.map((stage: { name: string }) => stage.name)).toEqual(["compress", "cpt", "anneal"]);
    expect(state.samples[0].samples).toHaveLength(3);
    for (const name of ["loss", "grad_norm", "u_max", "masked_share"]) {
      expect(state.rows.some((row: { mean: Record<string, number> }) => row.mean[name] !== undefined)).toBe(true);
    }
  });

  it("moves the earlier run aside, and on Ctrl-C saves and ends with 130", async () => {
    const before = eventsOf(out);
    const args = ["quickstart", "--steps", "5000,1,1", "--data", code, "--output-dir", out];
    const interrupt = { signal: "SIGINT" as const, after: /step \d+\/5000/ };
    const ended = await diffcoder(args, { interrupt });
    expect(ended.code, ended.stderr).toBe(130);
    expect(ended.stdout).toContain("the earlier run is now in");
    expect(eventsOf(`${out}.previous`)).toEqual(before);
    const [saved, ...others] = readdirSync(join(out, "checkpoints"));
    expect(others).toEqual([]);
    expect(ended.stdout).toMatch(new RegExp(`npx diffcoder generate \\S+/checkpoints/${saved}`));
    const firstLoss = (events: typeof before) =>
      (events.find((event) => event.type === "step") as unknown as { metrics: { loss: number } }).metrics.loss;
    // Same seed, same weights, same batch: to the last bit.
    expect(firstLoss(eventsOf(out))).toBe(firstLoss(before));
    const { state } = JSON.parse(
      readFileSync(join(out, "report.html"), "utf8").match(/id="run">(.*?)<\/script>/s)?.[1] ?? "",
    );
    expect(state).toBe("stopped");
  });

  it("ends at once, having saved nothing, when it is stopped while it reads", async () => {
    const elsewhere = join(folder.path, "unread");
    const args = ["quickstart", "--steps", "1,1,1", "--data", code, "--output-dir", elsewhere, "--seed", "9"];
    const ended = await diffcoder(args, { interrupt: { signal: "SIGTERM", after: /^Data$/m } });
    expect(ended.code).toBe(130);
    expect(ended.stderr).not.toMatch(/error|\n {4}at /);
    expect(existsSync(join(elsewhere, "checkpoints", "final"))).toBe(false);
  });

  it("leaves a folder alone that holds no run", async () => {
    const ended = await diffcoder(["quickstart", "--steps", "1,1,1", "--data", code, "--output-dir", code]);
    expectExplained(ended, /is not an earlier run and will not be replaced: choose another folder with --output-dir/);
    expect(existsSync(code)).toBe(true);
    const other = join(folder.path, "other");
    mkdirSync(`${other}.previous`);
    writeFileSync(join(`${other}.previous`, "precious"), "");
    expectExplained(
      await diffcoder(["quickstart", "--data", code, "--output-dir", other]),
      /other\.previous is not an earlier run/,
    );
    expect(existsSync(join(`${other}.previous`, "precious"))).toBe(true);
  });

  it("says what is wrong with the data", async () => {
    const quickstart = (data: string) =>
      diffcoder(["quickstart", "--data", data, "--output-dir", join(folder.path, "x")]);
    const empty = join(folder.path, "empty");
    mkdirSync(empty);
    expectExplained(await quickstart(empty), /no text found in .*empty: no file ends in \.py/);
    expectExplained(await quickstart(join(folder.path, "nowhere")), /nowhere/);
    writeFileSync(join(empty, "one.py"), "print('one')\n");
    expectExplained(await quickstart(empty), /\d tokens in \d documents do not fill one sample of 256/);
    expect(existsSync(join(folder.path, "x"))).toBe(false);
  });

  it.each([
    [["--minutes", "soon"], /expected a number from 0\.1/],
    [["--steps", "1,2"], /expected three positive integers/],
    [["--steps", "1,2,0"], /expected three positive integers/],
    [["--seed", "-1"], /expected an integer from 0/],
    [["--device", "gpu"], /expected "cpu", "cuda" or "cuda:NUMBER"/],
  ])("explains %j", async (args, message) => {
    expectExplained(await diffcoder(["quickstart", ...args]), message);
  });
});

describe("the time that is left for training", () => {
  it("is shared out by the measured seconds of a step", () => {
    expect(stepsFor(100, { ar: 0.1, diffusion: 0.25 })).toEqual({ compress: 500, cpt: 120, anneal: 80 });
    expect(stepsFor(0, { ar: 1, diffusion: 1 })).toEqual({ compress: 4, cpt: 4, anneal: 4 });
  });

  it("is measured on a model of its own", async () => {
    const tokenizer = Tokenizer.fromPretrained(TOKENIZER);
    const cache = join(folder.path, "cache");
    const data = await prepareData({ paths: [code], seqLen: 64, cache }, tokenizer);
    const { signal } = new AbortController();
    const { ar, diffusion } = await calibrate(data, tokenizer, { device: "cpu", signal });
    expect(ar).toBeGreaterThan(0);
    expect(diffusion).toBeGreaterThan(0);
    expect(Math.max(ar, diffusion)).toBeLessThan(60);
  });
});
