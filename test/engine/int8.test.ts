import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Engine } from "../../lib/engine/index.js";
import * as torch from "../../lib/torch/index.js";
import { heldTensors } from "../torch/held-tensors.js";
import { collect, randomPrompt, sharpCoder } from "./support.js";

const { int8_pack: pack, int8_linear: linear } = torch.ops.diffcoder;

function random(seed: number, shape: number[]): torch.Tensor {
  using generator = new torch.Generator({ seed });
  return torch.randn(shape, { generator });
}

const rounded = (x: number): number => {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
};

/** The same arithmetic, number by number. */
function plain(x: number[][], weight: number[][]): number[][] {
  const quantise = (row: number[]) => {
    const most = Math.max(...row.map(Math.abs));
    const scale = Math.fround(most / 127);
    const inverse = most > 0 ? Math.fround(127 / most) : 0;
    return { scale, q: row.map((value) => rounded(Math.fround(value * inverse))) };
  };
  const rows = weight.map(quantise);
  return x.map(quantise).map(({ scale: a, q }) =>
    rows.map(({ scale, q: w }) => {
      const sum = w.reduce((total, value, k) => total + value * q[k], 0);
      return Math.fround(Math.fround(sum) * Math.fround(a * scale));
    }),
  );
}

describe("int8 matrices", () => {
  it.each([
    [1, 4, 16],
    [3, 5, 7],
    [8, 64, 33],
    [17, 100, 130],
    [70, 256, 48],
  ])("%i rows, %i inputs, %i outputs: the arithmetic is exact", (rows, inputs, outputs) => {
    const [x, weight] = [random(1, [rows, inputs]), random(2, [outputs, inputs])];
    const [packed, scales] = pack(weight) as [torch.Tensor, torch.Tensor];
    const y = linear(x, packed, scales, null) as torch.Tensor;
    expect(y.tolist()).toEqual(plain(x.tolist() as number[][], weight.tolist() as number[][]));
    const exact = torch.linear(x, weight);
    expect(y.sub(exact).norm().item() / exact.norm().item()).toBeLessThan(0.02);
  });

  it("adds a bias, keeps shape and dtype, and rows do not depend on each other", () => {
    const [x, weight, bias] = [random(1, [2, 9, 40]), random(2, [50, 40]), random(3, [50])];
    const [packed, scales] = pack(weight) as [torch.Tensor, torch.Tensor];
    const y = linear(x, packed, scales, bias) as torch.Tensor;
    expect(y.shape).toEqual([2, 9, 50]);
    const without = linear(x, packed, scales, null) as torch.Tensor;
    expect(y.sub(without.add(bias)).abs().max().item()).toBeLessThan(2e-6);
    const one = linear(x.narrow(0, 1, 1).narrow(1, 3, 1), packed, scales, bias) as torch.Tensor;
    expect(one.flatten().tolist()).toEqual((y.tolist() as number[][][])[1][3]);
    expect((linear(x.bfloat16(), packed, scales, null) as torch.Tensor).dtype).toBe("bfloat16");
  });

  it("NaN stays NaN, zeros stay zeros, what does not fit is refused", () => {
    const [packed, scales] = pack(random(2, [5, 8])) as [torch.Tensor, torch.Tensor];
    const x = torch.zeros([2, 8]);
    x.select(0, 1).fill_(Number.NaN);
    const y = (linear(x, packed, scales, null) as torch.Tensor).tolist() as number[][];
    expect(y[0]).toEqual([0, 0, 0, 0, 0]);
    expect(y[1].every(Number.isNaN)).toBe(true);
    expect(() => linear(torch.zeros([2, 9]), packed, scales, null)).toThrow(/int8_pack/);
  });

  it("other instruction sets give the same numbers", () => {
    const script = `
      import * as torch from ${JSON.stringify(new URL("../../lib/torch/index.ts", import.meta.url).href)};
      const generator = new torch.Generator({ seed: 4 });
      const [packed, scales] = torch.ops.diffcoder.int8_pack(torch.randn([70, 90], { generator }));
      const y = torch.ops.diffcoder.int8_linear(torch.randn([11, 90], { generator }), packed, scales, null);
      console.log(JSON.stringify(y.tolist()));`;
    const run = (cpu: string) =>
      execFileSync(process.execPath, ["--import", import.meta.resolve("tsx"), "--input-type=module", "-e", script], {
        env: { ...process.env, DIFFCODER_CPU: cpu },
        encoding: "utf8",
      });
    expect(run("baseline")).toBe(run("avx512"));
  });
});

describe("an engine with int8 weights", () => {
  let folder: string;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "diffcoder-int8-"));
    const coder = sharpCoder({ tieWordEmbeddings: true, initializerRange: 0.1 });
    await coder.savePretrained(folder);
    coder.dispose();
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it("finds texts about as likely as the full weights do", async () => {
    await using full = await Engine.create({ model: folder, worker: "none" });
    await using small = await Engine.create({ model: folder, worker: "none", quantization: "int8" });
    expect(small.model).toMatchObject({ quantization: "int8", parameters: full.model.parameters });
    for (const mode of ["autoregressive", "diffusion"] as const) {
      const tokens = randomPrompt(3, 200);
      const [a, b] = await Promise.all([full, small].map((engine) => engine.score(tokens, { mode })));
      expect(Math.abs(a.nll - b.nll) / a.nll).toBeLessThan(0.01);
      expect(b.nll).not.toBe(a.nll);
    }
  });

  it("takes the matrices of a layer that has norms of q and k, and leaves the norms", async () => {
    const coder = sharpCoder({ architecture: "Qwen3ForCausalLM", headDim: 12, initializerRange: 0.1 });
    const other = join(folder, "qwen3");
    await coder.savePretrained(other);
    coder.dispose();
    await using full = await Engine.create({ model: other, worker: "none" });
    await using small = await Engine.create({ model: other, worker: "none", quantization: "int8" });
    const [a, b] = await Promise.all([full, small].map((engine) => engine.score(randomPrompt(3, 200))));
    expect(Math.abs(a.nll - b.nll) / a.nll).toBeLessThan(0.01);
    expect(b.nll).not.toBe(a.nll);
  });

  it("gives a request the same text alone and in a batch: integer sums are exact", async () => {
    await using engine = await Engine.create({
      model: folder,
      worker: "none",
      quantization: "int8",
      prefixCache: false,
    });
    const options = { maxTokens: 20, stopTokenIds: [] };
    const prompts = Array.from({ length: 12 }, (_, i) => randomPrompt(i, 5 + 4 * i));
    const together = await Promise.all(prompts.map((prompt) => collect(engine, prompt, options)));
    for (const [i, prompt] of prompts.entries()) {
      const alone = await collect(engine, prompt, options);
      expect(together[i].ids).toEqual(alone.ids);
      const logprobs = (list: typeof alone) =>
        list.events.flatMap((event) => (event.type === "text" ? event.tokens.map(({ logprob }) => logprob) : []));
      expect(logprobs(together[i])).toEqual(logprobs(alone));
    }
  });

  it("frees all it made when it is closed", async () => {
    const before = heldTensors();
    const engine = await Engine.create({ model: folder, worker: "none", quantization: "int8" });
    expect(heldTensors()).toBeGreaterThan(before);
    await engine.close();
    expect(heldTensors()).toBe(before);
  });

  it("is refused where it cannot be", async () => {
    const coder = sharpCoder();
    const create = Engine.create({ model: coder, worker: "none", quantization: "int8" });
    await expect(create).rejects.toMatchObject({ code: "ENGINE_OPTIONS" });
    coder.dispose();
  });
});
