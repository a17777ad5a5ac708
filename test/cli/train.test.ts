import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { diffcoder, eventsOf, expectExplained, scratchFolder, smallCheckpoint, someCode } from "./support.js";

const folder = scratchFolder();
let model: string;
let recipe: string;

/** A curriculum in YAML over the small checkpoint. */
function write(name: string, stages: string, rest = ""): string {
  const file = join(folder.path, name);
  const data = `data: { paths: [${join(folder.path, "code")}], seqLen: 64, cache: ${join(folder.path, "cache")} }`;
  writeFileSync(file, `model: ${model}\n${data}\n${rest}\nstages:\n${stages}`);
  return file;
}

beforeAll(async () => {
  someCode(folder.path);
  model = await smallCheckpoint(join(folder.path, "model"));
  recipe = write(
    "recipe.yaml",
    "  - { type: autoregressive, name: compress, steps: 3, globalBatchSize: 2, lr: 1e-3 }\n" +
      "  - { type: block-diffusion, name: cpt, steps: 4000, globalBatchSize: 2, warmup: { steps: 100 } }\n",
  );
});

const stepsOf = (out: string) => eventsOf(out).filter(({ type }) => type === "step");

describe("train", () => {
  it("saves on Ctrl-C, says how to go on, and goes on from there", async () => {
    const out = join(folder.path, "run");
    const args = ["train", recipe, "--output-dir", out, "--seed", "5"];
    const interrupt = { signal: "SIGINT" as const, after: /cpt {2}step/ };
    const stopped = await diffcoder(args, { interrupt });
    expect(stopped.code, stopped.stderr).toBe(130);
    expect(stopped.stderr).toContain("Stopping after this step and saving. Press Ctrl-C again to exit immediately.");
    const again = stopped.stdout.match(/^To resume: +npx diffcoder (train .* --resume)$/m)?.[1];
    expect(again, stopped.stdout).toBe(`train ${recipe} --output-dir ${out} --seed 5 --resume`);

    const existing = await diffcoder(args);
    expectExplained(existing, /run already holds a run: --resume continues .* --overwrite .* --output-dir FOLDER/);
    expect(existing.stderr).not.toMatch(/^data/m); // before any data is read
    const last = stepsOf(out).at(-1)?.globalStep as number;

    const resumed = await diffcoder(again?.split(" ") ?? [], { interrupt });
    expect(resumed.code, resumed.stderr).toBe(130);
    expect(resumed.stderr).toMatch(new RegExp(`resuming from \\S+, step ${last}\\n`));
    const steps = stepsOf(out).map(({ globalStep }) => globalStep);
    expect(steps).toEqual(Array.from({ length: steps.length }, (_, i) => i + 1)); // none twice, none left out
    expect(steps.length).toBeGreaterThan(last);

    const other = await diffcoder(["train", recipe, "--output-dir", out, "--seed", "6", "--resume"]);
    expectExplained(other, /belongs to another run[\s\S]*seed: 5, 6/);
  });

  it("begins anew with --overwrite, takes another model, and keeps quiet", async () => {
    const file = write(
      "short.yaml",
      "  - { type: autoregressive, name: only, steps: 2, globalBatchSize: 2, lr: 1e-3 }\n",
    );
    const out = join(folder.path, "short");
    for (const flags of [[], ["--overwrite", "--model", await smallCheckpoint(join(folder.path, "other model"))]]) {
      const ended = await diffcoder(["train", file, "--output-dir", out, "--quiet", ...flags]);
      expect(ended.code, ended.stderr).toBe(0);
      expect(ended.stderr).toBe("");
      expect(ended.stdout).toMatch(/^The report: .*report\.html\nThe model: .*final\nTry it: +npx diffcoder generate /);
    }
    expect(readdirSync(join(out, "checkpoints"))).toEqual(["final"]);
    expect(stepsOf(out)).toHaveLength(2);
  });

  it("says how the data was read, and how training goes", async () => {
    const stage = "  - { type: autoregressive, name: only, steps: 1, globalBatchSize: 2, lr: 1e-3 }\n";
    const ended = await diffcoder(["train", write("said.yaml", stage), "--output-dir", join(folder.path, "said")]);
    expect(ended.code, ended.stderr).toBe(0);
    for (const line of [
      /^reading .*said\.yaml$/m,
      /^data: \d+ documents, .* MB/m,
      /parameters \(2 layers of 64/,
      /^stage 1\/1: only/m,
      /^saved .*final$/m,
    ]) {
      expect(ended.stderr).toMatch(line);
    }
  });

  it("goes into runs/NAME of the working directory by itself", async () => {
    const stage = "  - { type: autoregressive, name: only, steps: 1, globalBatchSize: 1, lr: 1e-3 }\n";
    const cwd = join(folder.path, "elsewhere");
    mkdirSync(cwd);
    const ended = await diffcoder(["train", write("named.yaml", stage)], { cwd });
    expect(ended.code, ended.stderr).toBe(0);
    expect(ended.stdout).toContain("npx diffcoder generate runs/named/checkpoints/final 'def main('");
    expect(existsSync(join(cwd, "runs", "named", "report.html"))).toBe(true);
  });

  it("shows where a curriculum file of the user's throws", async () => {
    const file = join(folder.path, "throws.ts");
    writeFileSync(
      file,
      'import { Curriculum } from "stable-diffcoder";\nexport const curriculum = new Curriculum(missing);\n',
    );
    const { code, stderr } = await diffcoder(["train", file]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/throws\.ts:2:\d+: ReferenceError: missing is not defined/);
  });

  it.each([
    [["nowhere.ts"], /nowhere\.ts does not exist/],
    [["package.json"], /package\.json is not a curriculum file: expected one that ends in \.ts/],
    [["lib/index.ts"], /lib\/index\.ts does not export a curriculum/],
    [["RECIPE", "--resume", "--overwrite"], /give --resume or --overwrite, not both/],
    [["RECIPE", "--model", "nowhere"], /nowhere/],
    [["RECIPE", "--device", "cuda"], /cuda/i],
    [["RECIPE", "--seed", "x"], /expected an integer from 0/],
  ])("explains %j", async (args, message) => {
    const words = args.map((word) => (word === "RECIPE" ? recipe : word));
    expectExplained(await diffcoder(["train", ...words, "--output-dir", join(folder.path, "none")]), message);
    expect(existsSync(join(folder.path, "none"))).toBe(false);
  });

  it("explains a recipe that is wrong, with the path and what is allowed", async () => {
    const wrong = write("wrong.yaml", "  - { type: autoregresive, name: a, steps: 1 }\n");
    expectExplained(await diffcoder(["train", wrong]), /stages\[0\]\.type[\s\S]*block-diffusion/);
    const unknown = write("unknown.yaml", "  - { type: block-diffusion, name: a, steps: 1, blocksize: 4 }\n");
    expectExplained(
      await diffcoder(["train", unknown]),
      /stages\[0\]\.blocksize: unknown key \(did you mean blockSize\?\)/,
    );
    writeFileSync(wrong, "stages: [\n");
    expectExplained(await diffcoder(["train", wrong]), /wrong\.yaml is not valid YAML: .*line/);
  });
});
