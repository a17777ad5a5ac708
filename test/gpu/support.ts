import { availableParallelism } from "node:os";
import { afterAll, beforeAll } from "vitest";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";

/**
 * Where the suite runs. `DIFFCODER_GPU_REHEARSAL=1` puts it on the CPU with small sizes: that proves nothing about a GPU,
 * but finds mistakes in the suite itself on a machine without one.
 */
export const onGpu = process.env.DIFFCODER_GPU_REHEARSAL === undefined;
export const device = onGpu ? "cuda" : "cpu";

/** One size on a GPU, another in a rehearsal. */
export const sized = <T>(gpu: T, rehearsal: T): T => (onGpu ? gpu : rehearsal);

beforeAll(() => {
  if (onGpu && !torch.cuda.isAvailable()) throw new Error("no CUDA device: npm run test:gpu needs one");
  if (onGpu) torch.setNumThreads(Math.min(8, availableParallelism())); // for the CPU's side of the comparisons
});

const figures: [name: string, value: string][] = [];

/** Notes a figure worth keeping; each file's are printed at its end, as rows for docs/benchmarks.md. */
export function record(name: string, value: string): void {
  figures.push([name, value]);
}

afterAll(() => {
  if (figures.length === 0) return;
  const { torch: version } = torch.build();
  const name = onGpu ? String(torch.cuda.deviceProperties().name) : "CPU, a rehearsal: no figures of a GPU";
  const rows = figures.splice(0).map(([what, value]) => `| ${what} | ${value} |`);
  console.log([`figures (${name}, libtorch ${version})`, ...rows].join("\n"));
});

export function synchronize(): void {
  if (onGpu) torch.cuda.synchronize();
}

/** Bytes that tensors have on the GPU now, and had at most since `from` was called. */
export const memory = {
  allocated: (): number => (onGpu ? torch.cuda.memoryStats().allocated : 0),
  peak: (): number => (onGpu ? torch.cuda.memoryStats().peakAllocated : 0),
  reset: (): void => {
    if (onGpu) torch.cuda.resetPeakMemoryStats();
  },
};

/** Milliseconds of one call, the device's work included; the best of three rounds. Frees what the calls make. */
export function milliseconds(run: () => void, calls = sized(20, 1)): number {
  const round = () => {
    synchronize();
    const start = performance.now();
    for (let i = 0; i < calls; i++) torch.scope(run);
    synchronize();
    return (performance.now() - start) / calls;
  };
  round(); // libraries make handles and plans at first use
  return Math.min(round(), round(), round());
}

/** Numbers of N(0, 1), drawn on the CPU: the same for every device. */
export class Draw {
  readonly #generator: torch.Generator;

  constructor(seed: number) {
    this.#generator = new torch.Generator({ seed });
  }

  /** On the CPU, in the dtype: what is compared is arithmetic, not the rounding of inputs. */
  normal(shape: number[], dtype: torch.DTypeLike = "float32"): Tensor {
    return torch.randn(shape, { generator: this.#generator }).to(dtype);
  }

  integers(low: number, high: number, shape: number[]): Tensor {
    return torch.randint(low, high, shape, { generator: this.#generator });
  }
}

const largest = (tensor: Tensor) =>
  torch.scope(() => (tensor.numel() === 0 ? 0 : tensor.detach().double().abs().amax().item()));

/** The largest difference, as a share of the largest expected value, or of `floor` if that is more. */
export function relativeError(actual: Tensor, expected: Tensor, floor = 1e-30): number {
  if (actual.shape.join() !== expected.shape.join()) return Number.POSITIVE_INFINITY;
  return torch.scope(() => {
    const [a, b] = [actual, expected].map((tensor) => tensor.detach().to({ dtype: "float64", device: "cpu" }));
    const worst = largest(a.sub(b)) / Math.max(largest(b), floor);
    return Number.isNaN(worst) ? Number.POSITIVE_INFINITY : worst;
  });
}

/** What arithmetic in a dtype may lose, as a share of the largest value. */
export const tolerance: Record<"float64" | "float32" | "float16" | "bfloat16", number> = {
  float64: 1e-12,
  float32: 1e-5,
  float16: 5e-3,
  bfloat16: 3e-2,
};
export type Compared = keyof typeof tolerance;

type Operator = (...inputs: Tensor[]) => Tensor | Tensor[];

/**
 * Runs an operator on the device and its reference in float64 on the CPU, forward and backward from the same random
 * gradients, and gives back the worst error of outputs and of gradients.
 *
 * @param inputs on the CPU, in the dtypes the operator is to be tested in; floating ones are differentiated
 */
export function compare(
  inputs: Tensor[],
  operator: Operator,
  reference: Operator,
  options: { gradients?: boolean; view?: (input: Tensor) => Tensor } = {},
): { forward: number; backward: number } {
  const { gradients = true, view = (input) => input } = options;
  return torch.scope(() => {
    const isFloating = (tensor: Tensor) => /float/.test(tensor.dtype);
    const differentiated = inputs.flatMap((input, i) => (gradients && isFloating(input) ? [i] : []));
    const leaves = (convert: (input: Tensor) => Tensor) =>
      inputs.map((input, i) => {
        const leaf = convert(input.detach());
        return differentiated.includes(i) ? leaf.requiresGrad_() : leaf;
      });
    const here = leaves((input) => view(input.to(device)).detach());
    const there = leaves((input) => (isFloating(input) ? input.double() : input));
    const outputs = [operator(...here)].flat();
    const expected = [reference(...there)].flat();
    const forward = Math.max(...outputs.map((output, i) => relativeError(output, expected[i])));
    if (differentiated.length === 0) return { forward, backward: 0 };
    const draw = new Draw(77);
    const seeds = outputs.map((output) => draw.normal(output.shape, output.dtype));
    const pick = (list: Tensor[]) => differentiated.map((i) => list[i]);
    const recorded = outputs.flatMap((output, i) => (output.requiresGrad ? [i] : []));
    const only = <T>(list: T[]) => recorded.map((i) => list[i]);
    const ours = torch.grad(only(outputs), pick(here), { gradOutputs: only(seeds).map((seed) => seed.to(device)) });
    const theirs = torch.grad(only(expected), pick(there), { gradOutputs: only(seeds).map((seed) => seed.double()) });
    // One key: its softmax is 1, and the gradient of q is nothing but rounding. The others say what is small.
    const floor = Math.max(1e-30, ...theirs.map((gradient) => 0.05 * largest(gradient as Tensor)));
    const errors = ours.map((gradient, i) => relativeError(gradient as Tensor, theirs[i] as Tensor, floor));
    for (const [i, gradient] of ours.entries()) {
      if (gradient?.dtype !== pick(here)[i].dtype) throw new Error(`gradient ${i} is ${gradient?.dtype}`);
    }
    return { forward, backward: Math.max(...errors) };
  });
}

/** Keeps the device busy for about this many milliseconds, without waiting for it: whoever then waits is found out. */
export class Hog {
  readonly #a: Tensor;
  readonly #out: Tensor;
  readonly #each: number;

  constructor() {
    const size = sized(8192, 64);
    this.#a = torch.keep(torch.randn([size, size], { device }));
    this.#out = torch.keep(torch.empty([size, size], { device }));
    this.#each = milliseconds(() => this.#once(), 3);
  }

  #once(): void {
    torch.ops.aten.mm(this.#a, this.#a, { out: this.#out });
  }

  /** Returns at once; the device is busy from then on. */
  work(milliseconds: number): void {
    for (let done = 0; done < milliseconds; done += this.#each) torch.scope(() => this.#once());
  }

  dispose(): void {
    this.#a.dispose();
    this.#out.dispose();
  }
}
