import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { Engine, type GenerateOptions } from "../../lib/engine/index.js";
import * as torch from "../../lib/torch/index.js";
import { autoregressive, blockDiffusion, Curriculum, type Stage } from "../../lib/train/index.js";
import { sharpCoder } from "../engine/support.js";
import { data, tinyModel, tinyStages } from "../train/tiny.js";

/** What must not change where only the code's shape does. Numbers are written so that they come back bit for bit. */
export interface Bits {
  /** Two machines give the same bits only where these are equal. */
  machine: { torch: string; cpu: string };
  /** Loss and gradient norm of each step. */
  losses: Record<string, [number, number][]>;
  /** SHA-256 of a checkpoint's files. */
  checkpoint: Record<string, string>;
  /** What the engine writes. */
  texts: { ids: number[]; logprobs: number[]; passes: number }[];
}

export async function measure(folder: string): Promise<Bits> {
  const { torch: version, cpuCapability } = torch.build();
  const common = { data, globalBatchSize: 4, precision: "float32", lr: 3e-3, steps: 30 } as const;
  const objectives: Record<string, Stage> = {
    autoregressive: autoregressive({ ...common, name: "ar" }),
    accumulated: autoregressive({ ...common, name: "ar", gradientAccumulationSteps: 2, headChunkSize: 16 }),
    blockDiffusion: blockDiffusion({ ...common, name: "bd", blockSize: 4 }),
    warmedUp: blockDiffusion({ ...common, name: "bd", blockSize: 8, warmup: { steps: 10 }, maxGradNorm: 0.5 }),
  };
  const losses: Bits["losses"] = {};
  for (const [name, stage] of Object.entries(objectives)) losses[name] = await train([stage], {});
  const out = join(folder, "run");
  const first = await train(tinyStages(), { out, until: 9 });
  losses.resumed = [...first, ...(await train(tinyStages(), { out, resume: true }))];
  return {
    machine: { torch: version, cpu: `${cpuCapability} ${cpuIdentity()}` },
    losses,
    checkpoint: hashes(join(out, "checkpoints", "final")),
    texts: await texts(),
  };
}

/** What libraries choose their kernels by: family, model, stepping and instruction sets. A model's name alone may be generic. */
function cpuIdentity(): string {
  let text = cpus()[0]?.model ?? "";
  if (existsSync("/proc/cpuinfo")) {
    const [first] = readFileSync("/proc/cpuinfo", "utf8").split("\n\n");
    text = first
      .split("\n")
      .filter((line) => /^(vendor_id|cpu family|model|model name|stepping|flags|Features)\s*:/.test(line))
      .join("\n");
  }
  return createHash("sha256").update(text).digest("hex").slice(0, 12);
}

async function train(
  stages: Stage[],
  { out, until, resume = false }: { out?: string; until?: number; resume?: boolean },
): Promise<[number, number][]> {
  using model = tinyModel();
  const steps: [number, number][] = [];
  for await (const event of new Curriculum(stages).run({ model, outputDir: out, seed: 3, sinks: [], resume })) {
    if (event.type !== "step") continue;
    const { loss, grad_norm = Number.NaN } = event.metrics;
    steps.push([loss ?? Number.NaN, grad_norm]);
    if (event.globalStep === until) break;
  }
  return steps;
}

/** The weights and the optimiser's state; what else is in a checkpoint names versions and times. */
function hashes(folder: string): Record<string, string> {
  const files = readdirSync(folder).filter((name) => /\.(safetensors|state)$/.test(name));
  return Object.fromEntries(
    files.sort().map((name) => [
      name,
      createHash("sha256")
        .update(readFileSync(join(folder, name)))
        .digest("hex"),
    ]),
  );
}

async function texts(): Promise<Bits["texts"]> {
  using coder = sharpCoder();
  const engine = await Engine.create({ model: coder, worker: "none", cacheTokens: 4096 });
  const requests: GenerateOptions[] = [
    { blockSize: 4 },
    { blockSize: 8, commit: { rule: "threshold", value: 0.6 } },
    { blockSize: 4, temperature: 0.9, seed: 7 },
    {
      blockSize: 4,
      temperature: 1.1,
      topP: 0.9,
      topK: 30,
      minP: 0.01,
      commit: { rule: "entropy", bound: 0.4 },
      seed: 8,
    },
    { mode: "autoregressive" },
    { mode: "autoregressive", temperature: 0.8, seed: 9 },
  ];
  const prompt = Array.from({ length: 40 }, (_, i) => 6 + ((i * 7) % 90));
  const written = await Promise.all(
    requests.map(async (options) => {
      const ids: number[] = [];
      const logprobs: number[] = [];
      let passes = 0;
      for await (const event of engine.generate(prompt, { maxTokens: 32, stopTokenIds: [], ...options })) {
        if (event.type === "text") {
          ids.push(...event.ids);
          logprobs.push(...event.tokens.map(({ logprob }) => logprob));
        } else if (event.type === "done") passes = event.usage.forwards;
      }
      return { ids, logprobs, passes };
    }),
  );
  await engine.close();
  return written;
}
