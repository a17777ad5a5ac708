// What goes wrong has a code, names the operator, the argument and the shapes, and shows no C++ stack.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import * as torch from "../../lib/torch/index.js";
import { leftBehind, runChild, scratchFolder, thrownBy } from "./support.js";

const folder = scratchFolder();
const untyped = <T>(value: T) => value as never;
const x = torch.keep(torch.zeros([2, 3]));

interface Example {
  code: torch.TorchErrorCode;
  operator: string;
  says: RegExp[];
  call: () => unknown;
}

/** The codes that a script can run into; each example with what its message must hold. */
const examples: Example[] = [
  // Arguments that no overload takes: every overload says why not.
  {
    code: "TORCH_ARGUMENT",
    operator: "add",
    says: [
      /no overload accepts \(Tensor\(\[2,3\], float32, cpu\), "1"\)/,
      /aten::add\.Tensor\(.*\n\s+'other' cannot be "1"/,
    ],
    call: () => x.add(untyped("1")),
  },
  { code: "TORCH_ARGUMENT", operator: "add", says: [/'other' is missing/], call: () => torch.ops.aten.add(x) },
  { code: "TORCH_ARGUMENT", operator: "sum", says: [/has no argument 'foo'/], call: () => x.sum(untyped({ foo: 1 })) },
  {
    code: "TORCH_ARGUMENT",
    operator: "sum",
    says: [/'dim' is given twice/],
    call: () => x.sum([0], untyped({ dim: [1] })),
  },
  {
    code: "TORCH_ARGUMENT",
    operator: "relu",
    says: [/takes 1 positional arguments, got 2/],
    call: () => torch.ops.aten.relu(x, x),
  },
  {
    code: "TORCH_ARGUMENT",
    operator: "cat",
    says: [/'tensors' cannot be \[Tensor\(\[2,3\], float32, cpu\), 5\]/],
    call: () => torch.cat([x, untyped(5)], 0),
  },
  {
    code: "TORCH_ARGUMENT",
    operator: "zeros",
    says: [/'dtype' cannot be "float31"/],
    call: () => torch.ops.aten.zeros([1], { dtype: "float31" }),
  },
  { code: "TORCH_ARGUMENT", operator: "view", says: [/'size' cannot be \[1.5\]/], call: () => x.view([1.5]) },
  {
    code: "TORCH_ARGUMENT",
    operator: "view",
    says: [/argument 'size' must be an integer below 2\^53/],
    call: () => x.view([2 ** 60]),
  },
  {
    code: "TORCH_ARGUMENT",
    operator: "narrow",
    says: [/argument 'length' must be an integer/],
    call: () => x.narrow(0, 0, 1e300),
  },
  {
    code: "TORCH_ARGUMENT",
    operator: "zeros",
    says: [/argument 'device' is no device/, /tpu/],
    call: () => torch.zeros([1], { device: "tpu" }),
  },
  {
    code: "TORCH_ARGUMENT",
    operator: "empty",
    says: [/argument 'memory_format' must be one of .*channels_last/],
    call: () => torch.ops.aten.empty([1], { memory_format: "flat" }),
  },
  {
    code: "TORCH_ARGUMENT",
    operator: "empty",
    says: [/argument 'layout' must be one of 'strided'/],
    call: () => torch.ops.aten.empty([1], { layout: "round" }),
  },
  {
    code: "TORCH_ARGUMENT",
    operator: "div",
    says: [/'rounding_mode' cannot be 3/],
    call: () => x.div(2, { roundingMode: untyped(3) }),
  },
  {
    code: "TORCH_DISPOSED",
    operator: "matmul",
    says: [/argument 'other' is a tensor that was disposed/, /Tensor\(disposed\)/],
    call: () => {
      const t = torch.ones([3]);
      t.dispose();
      return x.matmul(t);
    },
  },
  {
    code: "TORCH_DISPOSED",
    operator: "stack",
    says: [/argument 'tensors' holds a tensor that was disposed/],
    call: () => {
      const t = torch.ones([3]);
      t.dispose();
      return torch.stack([t]);
    },
  },
  // What libtorch refuses.
  {
    code: "TORCH_ERROR",
    operator: "matmul",
    says: [/2x3 and 2x3/, /called with Tensor\(\[2,3\], float32, cpu\), Tensor\(\[2,3\]/],
    call: () => x.matmul(x),
  },
  {
    code: "TORCH_ERROR",
    operator: "view",
    says: [/shape '\[7\]' is invalid for input of size 6/],
    call: () => x.view([7]),
  },
  {
    code: "TORCH_ERROR",
    operator: "add_",
    says: [/The size of tensor a \(3\) must match/],
    call: () => x.add_(torch.ones([2])),
  },
  {
    code: "TORCH_ERROR",
    operator: "linalg_inv",
    says: [/singular/],
    call: () => torch.linalg.inv(torch.zeros([2, 2])),
  },
  {
    code: "TORCH_ERROR",
    operator: "einsum",
    says: [/fewer operands/, /"ij,jk", \[Tensor/],
    call: () => torch.einsum("ij,jk", [x]),
  },
  { code: "TORCH_INDEX", operator: "sum", says: [/Dimension out of range/, /\[5\]/], call: () => x.sum([5]) },
  {
    code: "TORCH_INDEX",
    operator: "embedding",
    says: [/index out of range/],
    call: () => torch.embedding(x, torch.tensor([9n])),
  },
  { code: "TORCH_INDEX", operator: "index", says: [/index 9 is out of bounds/], call: () => x.index(9) },
  { code: "TORCH_VALUE", operator: "item", says: [/6 elements/], call: () => x.item() },
  { code: "TORCH_VALUE", operator: "setNumThreads", says: [/positive integer/], call: () => torch.setNumThreads(0) },
  {
    code: "TORCH_VALUE",
    operator: "setFloat32MatmulPrecision",
    says: [/'highest', 'high' or 'medium', not 'best'/],
    call: () => torch.setFloat32MatmulPrecision(untyped("best")),
  },
  {
    code: "TORCH_NOT_IMPLEMENTED",
    operator: "cholesky",
    says: [/not implemented for 'Half'/],
    call: () => torch.ones([2, 2], { dtype: "float16" }).cholesky(),
  },
  {
    code: "TORCH_NOT_IMPLEMENTED",
    operator: "zeros",
    says: [/Could not run 'aten::empty.memory_format' with arguments from the 'XPU' backend\.\n/],
    call: () => torch.zeros([1], { device: "xpu" }),
  },
  {
    code: "TORCH_NOT_IMPLEMENTED",
    operator: "qscheme",
    says: [/no JavaScript form/],
    call: () => torch.ops.aten.qscheme(x),
  },
  {
    code: "TORCH_UNKNOWN_OPERATOR",
    operator: "adds",
    says: [/has no operator aten::adds/],
    call: () => torch.ops.aten.adds(x, x),
  },
  {
    code: "TORCH_UNKNOWN_OPERATOR",
    operator: "mine::add",
    says: [/has no operator mine::add/],
    call: () => torch.ops.mine.add(x, x),
  },
  {
    code: "TORCH_OUT_OF_MEMORY",
    operator: "empty",
    says: [/^empty: can't allocate memory: you tried to allocate 4503599627370496 bytes/],
    call: () => torch.empty([2 ** 50]),
  },
  {
    code: "TORCH_OUT_OF_MEMORY",
    operator: "repeat",
    says: [/can't allocate memory/],
    call: () => x.repeat([2 ** 22, 2 ** 22]),
  },
  // Without a device.
  ...(torch.cuda.isAvailable()
    ? []
    : ([
        {
          code: "TORCH_CUDA_UNAVAILABLE",
          operator: "to",
          says: [/argument 'device' is 'cuda:0', but no CUDA device is available/],
          call: () => x.cuda(),
        },
        {
          code: "TORCH_CUDA_UNAVAILABLE",
          operator: "zeros",
          says: [/'cuda:3'/],
          call: () => torch.zeros([1], { device: "cuda:3" }),
        },
        {
          code: "TORCH_CUDA_UNAVAILABLE",
          operator: "Generator",
          says: [/the device is 'cuda'/],
          call: () => new torch.Generator({ seed: 1, device: "cuda" }),
        },
        {
          code: "TORCH_CUDA_UNAVAILABLE",
          operator: "cuda.synchronize",
          says: [/no CUDA device/],
          call: () => torch.cuda.synchronize(),
        },
        {
          code: "TORCH_CUDA_UNAVAILABLE",
          operator: "cuda.memoryStats",
          says: [/no CUDA device/],
          call: () => torch.cuda.memoryStats(),
        },
        {
          code: "TORCH_CUDA_UNAVAILABLE",
          operator: "cuda.currentDevice",
          says: [/no CUDA device/],
          call: () => torch.cuda.currentDevice(),
        },
        {
          code: "TORCH_CUDA_UNAVAILABLE",
          operator: "cuda.setDevice",
          says: [/no CUDA device/],
          call: () => torch.cuda.setDevice(0),
        },
        {
          code: "TORCH_CUDA_UNAVAILABLE",
          operator: "cuda.resetPeakMemoryStats",
          says: [/no CUDA device/],
          call: () => torch.cuda.resetPeakMemoryStats(),
        },
        {
          code: "TORCH_CUDA_UNAVAILABLE",
          operator: "cuda.deviceProperties",
          says: [/no CUDA device/],
          call: () => torch.cuda.deviceProperties(),
        },
        {
          code: "TORCH_CUDA_UNAVAILABLE",
          operator: "cuda.CUDAGraph",
          says: [/CUDA/],
          call: () => new torch.cuda.CUDAGraph(),
        },
        {
          code: "TORCH_CUDA_UNAVAILABLE",
          operator: "cuda.graphPoolHandle",
          says: [/CUDA/],
          call: () => torch.cuda.graphPoolHandle(),
        },
      ] satisfies Example[])),
  {
    code: "TORCH_IO",
    operator: "openSafetensors",
    says: [/the file does not exist/],
    call: () => torch.openSafetensors(join(folder, "none")),
  },
];

/** Codes without an example here, and where they are tested. */
const elsewhere: Partial<Record<torch.TorchErrorCode, string>> = {
  TORCH_TYPE: "conversion.test.ts",
  TORCH_SCOPE: "scope.test.ts",
  TORCH_FORMAT: "safetensors.test.ts",
  TORCH_LOAD: "below, in a process of its own",
  TORCH_INTERNAL: "nowhere: it would be a bug of the addon",
  ...(torch.cuda.isAvailable() && { TORCH_CUDA_UNAVAILABLE: "needs a machine without a device" }),
};

describe("TorchError", () => {
  it("every code has its example", () => {
    const shown = new Set([
      ...examples.map((example) => example.code),
      ...(Object.keys(elsewhere) as torch.TorchErrorCode[]),
    ]);
    expect([...torch.torchErrorCodes].filter((code) => !shown.has(code))).toEqual([]);
  });

  it.each(examples.map((example, i) => ({ ...example, title: `${i}: ${example.code} of ${example.operator}` })))(
    "$title",
    ({ code, operator, says, call }) => {
      expect(
        leftBehind(() =>
          torch.scope(() => {
            const error = thrownBy(call) as torch.TorchError;
            expect(error).toBeInstanceOf(torch.TorchError);
            expect(error).toBeInstanceOf(Error);
            expect([error.name, error.code, error.operator], error.message).toEqual(["TorchError", code, operator]);
            for (const part of says) expect(error.message).toMatch(part);
            expect(error.message).not.toMatch(/Exception raised from|frame #\d|\/pytorch\//);
          }),
        ),
      ).toBe(0);
    },
  );

  it("shows long lists in part, and anything else by its kind", () => {
    torch.scope(() => {
      const many = Array.from({ length: 100 }, (_, i) => i + 0.5);
      expect(() => x.view(many)).toThrowError(/\[0\.5, 1\.5, .*7\.5, … 100 in all\]/);
      for (const [value, shown] of [
        [new Date(), "Date"],
        [() => 1, "a function"],
        [Symbol("s"), "Symbol(s)"],
        [/x/, "RegExp"],
        [Object.create(null), "an object"],
        [torch.slice(1), "slice(1, null, 1)"],
      ])
        expect((thrownBy(() => torch.ops.aten.relu(value)) as Error).message).toContain(`(${shown})`);
    });
  });

  it("a failed call does not disturb the next", () => {
    torch.scope(() => {
      for (let i = 0; i < 50; i++) {
        expect(() => torch.cat([x, torch.ones([5, 5])], 0)).toThrow();
        expect(torch.cat([x, x], 0).shape).toEqual([4, 3]);
      }
    });
  });

  it("a getter that throws while arguments are read is the caller's own error", () => {
    const problem = new Error("mine");
    const options = Object.defineProperty({}, "dtype", {
      enumerable: true,
      get: () => {
        throw problem;
      },
    });
    expect(thrownBy(() => torch.ops.aten.zeros([1], options))).toBe(problem);
  });
});

describe("loading", () => {
  it("says how to build an addon that is not there", async () => {
    const missing = join(folder, "nowhere.node");
    const { status, output } = await runChild("load.ts", [], ["env", `DIFFCODER_ADDON=${missing}`]);
    expect(status).toBe(0);
    expect(output).toContain("TORCH_LOAD");
    expect(output).toContain(missing);
    expect(output).toContain("npm run setup");
  });

  it("says what is wrong with one that does not load", async () => {
    const broken = join(folder, "broken.node");
    writeFileSync(broken, "no shared object");
    const { status, output } = await runChild("load.ts", [], ["env", `DIFFCODER_ADDON=${broken}`]);
    expect(status).toBe(0);
    expect(output).toContain("TORCH_LOAD");
    expect(output).toMatch(/cannot be loaded: .*broken\.node/);
    expect(output).toContain("npx diffcoder doctor");
  });
});
