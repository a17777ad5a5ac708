import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { maskedCrc32c } from "../../../lib/train/sinks/tensorboard/event-file.js";
import { DIFFCODER, PLAIN } from "../../watch/support.js";
import { temporaryFolder } from "../support.js";
import { curves } from "./event-reader.js";

it("train takes sinks from flags and from a YAML file, and says what they need before it reads anything", () => {
  const folder = temporaryFolder();
  mkdirSync(join(folder, "code"));
  for (const name of ["tensor.ts", "scope.ts", "philox.ts", "safetensors.ts"]) {
    cpSync(fileURLToPath(new URL(`../../../lib/torch/${name}`, import.meta.url)), join(folder, "code", name));
  }
  writeFileSync(
    join(folder, "recipe.yaml"),
    "model: { preset: tiny, hiddenSize: 32, intermediateSize: 64, numLayers: 1, numHeads: 2, numKeyValueHeads: 1 }\n" +
      "data: { paths: [code], seqLen: 64, cache: cache }\n" +
      "tensorboard: from-the-file\n" +
      "stages:\n  - { type: autoregressive, name: only, steps: 3, globalBatchSize: 2, lr: 1e-3 }\n",
  );
  const [program, ...args] = DIFFCODER;
  const env = { ...PLAIN, WANDB_API_KEY: undefined };
  const train = (...flags: string[]) =>
    spawnSync(program, [...args, "train", "--output-dir", "run", ...flags, "recipe.yaml"], {
      cwd: folder,
      env,
      encoding: "utf8",
    });
  const ended = train("--tensorboard");
  expect(ended.status, ended.stderr).toBe(0);
  for (const place of [join("run", "tensorboard"), "from-the-file"]) {
    const steps = curves(join(folder, place), maskedCrc32c)["train/loss"].map(([step]) => step);
    expect(steps).toEqual([1, 2, 3]);
  }
  const elsewhere = train("--overwrite", "--tensorboard-dir", "elsewhere");
  expect(elsewhere.status, elsewhere.stderr).toBe(0);
  expect(curves(join(folder, "elsewhere"), maskedCrc32c)["train/loss"]).toHaveLength(3);
  const refused = train("--overwrite", "--wandb", "project");
  expect(refused.status).toBe(1);
  expect(refused.stderr).toBe("error: wandb: @wandb/sdk is not installed. Run: npm install @wandb/sdk graphql\n");
});
