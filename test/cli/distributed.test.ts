import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { diffcoder, eventsOf, scratchFolder, smallCheckpoint, someCode } from "./support.js";

const folder = scratchFolder();
let recipe: string;

beforeAll(async () => {
  const code = someCode(folder.path);
  const model = await smallCheckpoint(join(folder.path, "model"));
  recipe = join(folder.path, "recipe.yaml");
  const data = `{ paths: [${code}], seqLen: 64, cache: ${join(folder.path, "cache")} }`;
  const stages = [
    "  - { type: autoregressive, name: compress, steps: 4, globalBatchSize: 4, lr: 1e-3 }",
    "  - { type: block-diffusion, name: cpt, steps: 400, globalBatchSize: 4, warmup: { steps: 3 } }",
  ];
  writeFileSync(recipe, `model: ${model}\ndata: ${data}\nparallel: { shard: 2 }\nstages:\n${stages.join("\n")}\n`);
});

const stepsOf = (out: string) => eventsOf(out).filter(({ type }) => type === "step");

describe("a recipe on several processes", () => {
  it("stops on SIGTERM with 0, goes on with another mesh, and leaves a model for everything else", async () => {
    const out = join(folder.path, "run");
    const train = ["launch", "--nproc", "2", recipe, "--output-dir", out];
    const interrupt = { signal: "SIGTERM" as const, after: /cpt {2}step/ };
    const stopped = await diffcoder(train, { interrupt });
    expect(stopped.code, stopped.stderr).toBe(0);
    expect(stopped.stderr).toMatch(/shard 2, 2 ranks \(gloo\)/);
    const last = stepsOf(out).at(-1)?.globalStep as number;
    expect(stepsOf(out)[0]).toMatchObject({ metrics: { ranks: 2 }, perRank: [{ rank: 0 }, { rank: 1 }] });

    const resumed = await diffcoder([...train, "--resume", "--parallel", "shard=1,tensor=2"], { interrupt });
    expect(resumed.code, resumed.stderr).toBe(0);
    expect(resumed.stderr).toContain(`step ${last}\n`);
    expect(resumed.stderr).toMatch(/tensor 2, 2 ranks/);
    const steps = stepsOf(out).map(({ globalStep }) => globalStep);
    expect(steps).toEqual(Array.from({ length: steps.length }, (_, i) => i + 1)); // none twice, none left out

    const newest = join(out, "checkpoints", readdirSync(join(out, "checkpoints")).sort().at(-1) as string);
    expect(readdirSync(newest).filter((name) => name.startsWith("shard-"))).toHaveLength(2);
    const [verified, exported] = [
      await diffcoder(["checkpoint", "verify", newest]),
      await diffcoder(["checkpoint", "export", newest, "--out", join(folder.path, "hf")]),
    ];
    expect([verified.code, exported.code], verified.stderr + exported.stderr).toEqual([0, 0]);
    const options = ["--max-tokens", "6", "--json"];
    const texts = await Promise.all(
      [newest, join(folder.path, "hf")].map((model) => diffcoder(["generate", model, "def main(", ...options])),
    );
    const said = texts.map(({ stdout }) => (JSON.parse(stdout) as { text: string }).text);
    expect(said[0]).toBe(said[1]);
  });

  it("says what of a mesh does not fit, in every process", async () => {
    const wrong = await diffcoder([
      "launch",
      "--nproc",
      "2",
      recipe,
      "--output-dir",
      join(folder.path, "wrong"),
      "--parallel",
      "shard=3",
    ]);
    expect(wrong.code).not.toBe(0);
    expect(wrong.stderr).toMatch(/parallel: shard 3 x context 1 x tensor 1 does not fit 2 processes/);
  });
});
