import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { buildRecipe, type RecipeInput } from "../../lib/train/index.js";
import { freePort } from "../distributed/support.js";
import { collect, stepsOf, temporaryFolder } from "./support.js";

const child = fileURLToPath(new URL("load-child.ts", import.meta.url));
const tsx = import.meta.resolve("tsx"); // by its own place, for the child runs elsewhere

interface Loaded {
  stages?: string[];
  own?: boolean;
  run?: Record<string, unknown>;
  steps?: number;
  error?: string;
  code?: string;
}

/** Writes files into a folder outside of any package and loads some of them in a process of its own. */
function load(files: Record<string, string>, names = Object.keys(files), env: NodeJS.ProcessEnv = {}): Loaded[] {
  const folder = temporaryFolder();
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  const paths = names.map((name) => join(folder, name));
  const output = execFileSync(process.execPath, ["--import", tsx, child, ...paths], {
    encoding: "utf8",
    cwd: folder,
    env: { ...process.env, ...env },
  });
  return output
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Loaded);
}

const shared = `
import { autoregressive, Curriculum, StableDiffCoder, stage, type Dataset } from "stable-diffcoder";
import * as torch from "stable-diffcoder/torch";

enum Size { Row = 8 }
const data: Dataset = { seqLen: Size.Row, numSamples: 9, sample: (i) => ({ tokens: new Int32Array(8).fill(i + 6) }) };
const small = { vocabSize: 32, hiddenSize: 8, intermediateSize: 8, numLayers: 1, numHeads: 1 };
export const makeModel = async () => StableDiffCoder.fromConfig(small);
export const ar = autoregressive({ name: "ar", data, steps: 2, globalBatchSize: 1, lr: 1e-2 });
export const own = stage({
  name: "own",
  data,
  steps: 3,
  globalBatchSize: 1,
  objective: (model) => ({ loss: torch.sum(model.headWeight.square()), normalizer: 1 }),
});
export { Curriculum };
`;

describe("a curriculum file in TypeScript", () => {
  it("is loaded from anywhere, with this very library, in each of its forms", () => {
    const named = `import { ar, Curriculum, makeModel, own } from "./shared.js";
export const curriculum = new Curriculum([ar, own]);
export const model = await makeModel();
export const outputDir = "runs/named", keepLatest = 3, other = "whatever";`;
    const listed = `import { ar, makeModel } from "./shared.ts";
export default { curriculum: [ar], model: makeModel, seed: 5 };`;
    const made = `import { ar, makeModel, own } from "./shared.js";
export const model = makeModel;
export default ({ seed }: { seed: number }) => [{ ...ar, name: "seed " + seed }, own];`;
    const results = load({ "shared.ts": shared, "named.ts": named, "listed.mts": listed, "seeded.ts": made }, [
      "named.ts",
      "listed.mts",
      "seeded.ts",
    ]);
    expect(results).toMatchObject([
      {
        stages: ["ar: autoregressive", "own: objective"],
        own: true,
        steps: 5,
        run: { outputDir: "runs/named", keepLatest: 3, seed: 0 },
      },
      { stages: ["ar: autoregressive"], own: true, steps: 2, run: { seed: 5 } },
      { stages: ["seed 11: autoregressive", "own: objective"], own: true, steps: 5, run: { seed: 11 } },
    ]);
  });

  it("that is none is told what is missing", () => {
    const [empty, without, wrong, broken, throws, text, missing] = load(
      {
        "shared.ts": shared,
        "empty.ts": "export const curiculum = [];",
        "without.ts": `import { ar } from "./shared.js"; export const curriculum = [ar];`,
        "wrong.ts": `import { ar } from "./shared.js"; export default { curriculum: [ar], keepLatest: "all" };`,
        "broken.ts": "export const curriculum = [;",
        "throws.ts": "throw new RangeError('of its own'); export {};",
        "plan.txt": "",
      },
      ["empty.ts", "without.ts", "wrong.ts", "broken.ts", "throws.ts", "plan.txt", "missing.ts"],
    );
    expect(empty.error).toMatch(/empty\.ts does not export a curriculum: write export const curriculum/);
    expect(without.error).toMatch(/does not export a model: write export const model/);
    expect(wrong.error).toMatch(/keepLatest: expected number, got "all"/);
    expect(broken.error).toMatch(/broken\.ts/);
    expect(throws.error).toBe("of its own");
    expect(text.error).toMatch(/plan\.txt is not a curriculum file.*\.yaml/);
    expect(missing.error).toMatch(/missing\.ts does not exist/);
    for (const { code } of [empty, without, wrong, text, missing]) expect(code).toBe("TRAIN_FILE");
  });
});

describe("a recipe", () => {
  it("builds and trains what it says, also from YAML, and its stages share their data", async () => {
    const folder = temporaryFolder();
    const corpus = join(folder, "corpus");
    mkdirSync(corpus);
    for (let i = 0; i < 8; i++) {
      const lines = Array.from({ length: 60 }, (_, j) => `def function_${i}_${j}(a, b):\n    return a * ${j} + b\n`);
      writeFileSync(join(corpus, `file${i}.py`), lines.join("\n"));
    }
    const chats = join(folder, "chats.jsonl");
    const record = { prompt: "Add one and two.", answer: "print(1 + 2)" };
    writeFileSync(chats, `${JSON.stringify(record)}\n`.repeat(20));
    const recipe: RecipeInput = {
      model: { preset: "tiny", hiddenSize: 32, intermediateSize: 32, numLayers: 1, numHeads: 2, numKeyValueHeads: 1 },
      data: { seqLen: 32, paths: [corpus], cache: join(folder, "cache") },
      seed: 2,
      stages: [
        { type: "autoregressive", name: "compress", steps: 3, globalBatchSize: 2, lr: 1e-2 },
        {
          type: "block-diffusion",
          name: "cpt",
          tokens: 192,
          globalBatchSize: 2,
          warmup: { steps: 2 },
          precision: "float32",
        },
        {
          type: "supervised",
          name: "sft",
          steps: 2,
          globalBatchSize: 1,
          data: { paths: [chats], seqLen: 32 },
          blockSize: 4,
        },
        {
          ...{ type: "autoregressive", name: "answers", steps: 1, lr: 1e-3, globalBatchSize: 1 },
          data: { type: "sft", paths: [chats], seqLen: 32 },
        },
        { type: "causal-diffusion", name: "ardllm", steps: 1, globalBatchSize: 2, noise: "clipped-linear" },
        { type: "bidirectional", name: "bidllm", steps: 1, globalBatchSize: 2, warmup: { steps: 1 }, shift: true },
      ],
    };
    const { curriculum, model, run } = await buildRecipe(recipe);
    try {
      const events = await collect(curriculum.stages, { ...run, model });
      expect(stepsOf(events)).toHaveLength(11);
      const [first, second, third, fourth] = curriculum.stages;
      expect(second.data).toBe(first.data);
      expect(third.data).not.toBe(first.data);
      expect(fourth.data).toBe(third.data);
      expect(stepsOf(events).at(-4)?.metrics.masked_share).toBeGreaterThan(0);
    } finally {
      model.dispose();
    }
    const yaml = join(folder, "recipe.yaml");
    writeFileSync(yaml, JSON.stringify(recipe)); // JSON is YAML
    const output = execFileSync(process.execPath, ["--import", tsx, child, yaml], { encoding: "utf8", cwd: folder });
    expect(JSON.parse(output)).toMatchObject({
      stages: [
        ...["compress: autoregressive", "cpt: block-diffusion", "sft: supervised", "answers: autoregressive"],
        ...["ardllm: causal-diffusion", "bidllm: bidirectional"],
      ],
      own: true,
      steps: 11,
    });
  });

  it("in YAML says how long processes wait for each other", async () => {
    const yaml = `model: tiny
parallel: { backend: gloo, timeouts: { init: 1 } }
stages: [{ type: autoregressive, name: a, steps: 1, lr: 1, data: { paths: [x], seqLen: 8 } }]`;
    const launched = { RANK: "0", WORLD_SIZE: "2", LOCAL_RANK: "0", LOCAL_WORLD_SIZE: "2", MASTER_ADDR: "127.0.0.1" };
    const env = { ...launched, MASTER_PORT: String(await freePort()) };
    const [alone] = load({ "recipe.yaml": yaml }, undefined, env);
    expect(alone.code).toBe("DISTRIBUTED_TIMEOUT");
    expect(alone.error).toMatch(/rank 1 of 2 did not arrive within 1 s/);
  });

  it("with a model that is neither folder nor preset says so", async () => {
    const stages: RecipeInput["stages"] = [
      { type: "autoregressive", name: "a", steps: 1, lr: 1, data: { paths: ["x"], seqLen: 8 } },
    ];
    await expect(buildRecipe({ model: "tinny", stages })).rejects.toThrow(/no data at|tinny/);
  });
});
