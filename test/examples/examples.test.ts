import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { diffcoder, eventsOf, root, run, scratchFolder, smallCheckpoint, someCode } from "../cli/support.js";

const folder = scratchFolder();
let code: string;
let model: string;
beforeAll(async () => {
  code = someCode(folder.path);
  model = await smallCheckpoint(join(folder.path, "model"));
});

const files = readdirSync(join(root, "examples"));

/** Trains an example and gives back its run's folder and the events of its steps. */
async function train(file: string, env: Record<string, string>) {
  const out = join(folder.path, "runs", file.replace(/.*\//, ""));
  const ended = await diffcoder(["train", file, "--output-dir", out], { env: { DATA: code, MODEL: model, ...env } });
  expect(ended.code, ended.stderr).toBe(0);
  expect(existsSync(join(out, "checkpoints", "final", "model.safetensors"))).toBe(true);
  const steps = eventsOf(out).filter(({ type }) => type === "step");
  const perStage = new Map<string, number>();
  for (const { name } of steps) perStage.set(String(name), (perStage.get(String(name)) ?? 0) + 1);
  return { ...ended, out, steps, stages: Object.fromEntries(perStage) };
}

describe("examples", () => {
  it("are all covered here, and import from the package only", () => {
    const curricula = ["quickstart", "custom-curriculum", "continue-pretraining", "fine-tune"];
    const covered = [...curricula, "distributed-training", "generate", "tensors"];
    const elsewhere = ["cluster", "deploy"]; // test/launch and test/server
    const known = [...covered.map((name) => `${name}.ts`), ...elsewhere, "curriculum.yaml", "chats.jsonl"];
    expect([...files].sort()).toEqual(known.sort());
    for (const file of files.filter((name) => name.endsWith(".ts"))) {
      const text = readFileSync(join(root, "examples", file), "utf8");
      const specifiers = [...text.matchAll(/from "([^"]+)"/g)].map(([, specifier]) => specifier);
      for (const specifier of specifiers) expect(specifier).toMatch(/^(stable-diffcoder(\/[a-z]+)?|node:[a-z/]+)$/);
      expect(text.split("\n").length, file).toBeLessThanOrEqual(120);
    }
  });

  it("quickstart.ts goes through the paper's three stages", async () => {
    const { stages, out } = await train("examples/quickstart.ts", { STEPS: "10" });
    expect(stages).toEqual({ compress: 5, cpt: 3, anneal: 2 });
    expect(existsSync(join(out, "checkpoints", "pre-anneal", "config.json"))).toBe(true);
  });

  it("custom-curriculum.ts trains its own objective with its own noise and rate", async () => {
    const { steps, stages } = await train("examples/custom-curriculum.ts", { STEPS: "9" });
    expect(stages).toEqual({ "left-to-right": 3, blocks: 3, bidirectional: 3 });
    const last = steps.at(-1) as unknown as { metrics: Record<string, number> };
    expect(last.metrics.loss).toBeGreaterThan(0);
    expect(last.metrics.masked_share).toBeGreaterThan(0);
    expect(last.metrics.masked_share).toBeLessThan(1);
  });

  it("continue-pretraining.ts takes a checkpoint by its path", async () => {
    const { stages, stderr } = await train("examples/continue-pretraining.ts", { STEPS: "5", LENGTH: "64" });
    expect(stages).toEqual({ cpt: 4, anneal: 1 });
    expect(stderr).toContain("2 layers of 64"); // the checkpoint's shape
  });

  it("fine-tune.ts learns from the conversations beside it, and says how to talk to the model", async () => {
    const { stages, stderr, stdout } = await train("examples/fine-tune.ts", { EPOCHS: "2" });
    expect(stages).toEqual({ sft: 2 });
    expect(stderr).toMatch(/data: 16 samples in \d+ rows, \d+ of \d+ tokens are answers/);
    expect(stdout).toMatch(/npx diffcoder generate \S+ --chat/);
  });

  it("curriculum.yaml is the quickstart as data", async () => {
    const text = readFileSync(join(root, "examples", "curriculum.yaml"), "utf8");
    const file = join(folder.path, "short.yaml");
    const short = text
      .replaceAll(/^ {4}steps: \d+/gm, "    steps: 2")
      .replace("warmup: { steps: 80 }", "warmup: { steps: 1 }")
      .replace("paths: default", `paths: [${JSON.stringify(code)}]`);
    expect(short.match(/steps: [12]\b/g)).toHaveLength(4);
    writeFileSync(file, short);
    const { stages, out } = await train(file, {});
    expect(stages).toEqual({ compress: 2, cpt: 2, anneal: 2 });
    expect(existsSync(join(out, "checkpoints", "pre-anneal", "config.json"))).toBe(true);
  });

  it("distributed-training.ts trains on two processes, sharded, and finds its run again alone", async () => {
    const out = join(folder.path, "runs", "distributed");
    const example = ["examples/distributed-training.ts", "--data", code, "--output-dir", out, "--steps"];
    const ended = await diffcoder(["launch", "--nproc", "2", ...example, "4", "--shard", "2"]);
    expect(ended.code, `${ended.stdout}\n${ended.stderr}`).toBe(0);
    expect(ended.stdout).toMatch(/^\[0\] .*"shard":2/m);
    expect(ended.stdout).toMatch(/^\[0\] anneal 1\/1: loss \d/m);
    expect(ended.stdout).not.toMatch(/^\[1\]/m); // one speaks for all
    const steps = eventsOf(out).filter(({ type }) => type === "step");
    expect(steps.map(({ name }) => name)).toEqual(["compress", "compress", "cpt", "cpt", "anneal"]);
    expect(steps.every(({ metrics }) => (metrics as Record<string, number>).ranks === 2)).toBe(true);
    expect(existsSync(join(out, "checkpoints", "final", "shard-00001-of-00002.safetensors"))).toBe(true);

    const again = await run("npx", ["tsx", ...example, "4"]);
    expect(again.code, again.stderr).toBe(0);
    expect(again.stdout).not.toMatch(/loss/); // the run was at its end
  });

  it("generate.ts shows every denoising pass, then decodes left to right", async () => {
    const { code: exit, stdout, stderr } = await run("npx", ["tsx", "examples/generate.ts", model, "def f("]);
    expect(exit, stderr).toBe(0);
    expect(stdout).toMatch(/^block 1 pass 0: ".*▒/m);
    expect(stdout).toMatch(/^def f\(/m);
    expect(stdout).toMatch(/block diffusion: \d+ tokens in \d+ forward passes/);
    expect(stdout).toMatch(/left to right: \d+ tokens in \d+ forward passes/);
  });

  it.skipIf(!files.includes("tensors.ts"))(
    "tensors.ts runs",
    async () => {
      const { code: exit, stderr } = await run("npx", ["tsx", "examples/tensors.ts"]);
      expect(exit, stderr).toBe(0);
    },
    60_000,
  );
});
