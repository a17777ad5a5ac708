// The whole dispatcher is callable, and the generated types are the runtime's.
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { methodNames } from "../../lib/torch/generated/methods.js";
import * as torch from "../../lib/torch/index.js";
import { type NativeOverload, native } from "../../lib/torch/native.js";
import { camelCase } from "../../lib/torch/options.js";
import { torchError } from "./support.js";

const root = fileURLToPath(new URL("../..", import.meta.url));
const generatedFolder = join(root, "lib", "torch", "generated");

const fromJavaScript = (overload: NativeOverload) =>
  overload.arguments.every(
    ({ kind, list }) =>
      kind !== "unsupported" && !(list && ["dtype", "layout", "device", "memory_format", "Generator"].includes(kind)),
  ) && overload.returns.every(({ kind }) => kind !== "unsupported");

describe("the dispatcher", () => {
  it("is callable: all of aten but a handful, and nearly all of the rest", () => {
    const counts = new Map<string, { total: number; callable: number }>();
    const missing: string[] = [];
    for (const name of torch.operatorNames()) {
      const space = name.split("::")[0];
      const count = counts.get(space) ?? { total: 0, callable: 0 };
      counts.set(space, count);
      for (const overload of native.overloads(name)) {
        count.total++;
        if (fromJavaScript(overload)) count.callable++;
        else if (space === "aten") missing.push(overload.schema);
        expect(overload.arguments.length, overload.schema).toBeLessThan(48); // what one native call takes
      }
    }
    const sum = (key: "total" | "callable") => [...counts.values()].reduce((total, count) => total + count[key], 0);
    const aten = counts.get("aten") ?? { total: 0, callable: 0 };
    console.log(
      `libtorch ${torch.build().torch}: ${sum("callable")} of ${sum("total")} operators are callable; aten: ${aten.callable} of ${aten.total}`,
    );
    expect(aten.total).toBeGreaterThan(2500);
    // Those that take a Storage, a Stream or a packed quantised module, or return a dictionary or a quantiser.
    expect(missing.filter((schema) => !/Storage|Stream|CellParamsBase|Dict|QScheme/.test(schema))).toEqual([]);
    expect(sum("callable") / sum("total")).toBeGreaterThan(0.94);
  });

  it("finds operators of other libraries, and those with odd names", () => {
    torch.scope(() => {
      const x = torch.tensor([1, 2]);
      expect(torch.operatorNames()).toContain("aten::_foreach_add");
      const [a, b] = torch.ops.aten._foreach_add([x, x], 1) as torch.Tensor[];
      expect([a.tolist(), b.tolist()]).toEqual([
        [2, 3],
        [2, 3],
      ]);
      expect(torch.ops.aten._foreach_add_([x], [x])).toBeUndefined();
      expect(x.tolist()).toEqual([2, 4]);
      expect(torch.ops.prims.sin).toBeTypeOf("function");
      expect((torch.ops as unknown as Record<symbol, unknown>)[Symbol.iterator]).toBeUndefined();
    });
  });

  it("out= forms write into the tensor and return it", () => {
    torch.scope(() => {
      const x = torch.tensor([1, 2]);
      const out = torch.empty([2]);
      expect(torch.ops.aten.add(x, x, { out })).toBe(out);
      expect(out.tolist()).toEqual([2, 4]);
      const values = torch.empty([1]);
      const indices = torch.empty([1], { dtype: "int64" });
      expect(torch.ops.aten.max(x, 0, true, { max: values, max_values: indices })).toEqual([values, indices]);
      expect([values.item(), indices.item()]).toEqual([2, 1]);
    });
  });

  it("returns numbers, booleans, strings and lists as such", () => {
    torch.scope(() => {
      const x = torch.zeros([2, 3]);
      expect(torch.ops.aten.numel(x)).toBe(6);
      expect(torch.ops.aten.is_floating_point(x)).toBe(true);
      expect(torch.ops.aten.size(x, 1)).toBe(3);
      expect(torch.ops.aten._local_scalar_dense(torch.tensor(2.5))).toBe(2.5);
      expect(torch.ops.aten.equal(x, x)).toBe(true);
      expect(torch.ops.aten.result_type(x, 1)).toBeTypeOf("number");
    });
  });
});

describe("arguments", () => {
  it("by position, by name in either spelling, defaults left out", () => {
    torch.scope(() => {
      const x = torch.arange(6, { dtype: "float32" }).view([2, 3]);
      const expected = [[3], [12]];
      expect(x.sum([1], true).tolist()).toEqual(expected);
      expect(torch.ops.aten.sum(x, { dim: [1], keepdim: true })).toEqual(expect.anything());
      for (const call of [
        () => torch.ops.aten.sum(x, [1], { keepdim: true }),
        () => torch.ops.aten.sum({ self: x, dim: [1], keepdim: true }),
        () => torch.ops.aten.sum(x, 1, true),
        () => torch.ops.aten.sum(x, [1], true, {}),
        () => torch.ops.aten.sum(x, [1], true, { dtype: undefined }),
        () => torch.ops.aten.sum(x, [1], true, { dtype: null }),
      ])
        expect((call() as torch.Tensor).tolist()).toEqual(expected);
      expect(torch.div(x, 2, { roundingMode: "floor" }).tolist()).toEqual(
        torch.ops.aten.div(x, 2, { rounding_mode: "floor" }) && [
          [0, 0, 1],
          [1, 2, 2],
        ],
      );
      expect(x.std(undefined, { correction: 0 }).shape).toEqual([]);
    });
  });

  it("the overload follows the arguments, call by call", () => {
    torch.scope(() => {
      const x = torch.tensor([
        [1, 5],
        [7, 3],
      ]);
      for (let i = 0; i < 3; i++) {
        expect(torch.max(x).item()).toBe(7);
        expect(torch.max(x, 1)[0].tolist()).toEqual([5, 7]);
        expect(torch.max(x, torch.tensor(4)).tolist()).toEqual([
          [4, 5],
          [7, 4],
        ]);
        expect(x.pow(2).tolist()).toEqual([
          [1, 25],
          [49, 9],
        ]);
        expect(torch.pow(2, x).tolist()).toEqual([
          [2, 32],
          [128, 8],
        ]);
        expect(x.pow(torch.tensor([1, 2])).tolist()).toEqual([
          [1, 25],
          [7, 9],
        ]);
        expect(x.split(1).length).toBe(2);
        expect(x.split([2, 0], 1)[1].shape).toEqual([2, 0]);
        expect(x.sum().item()).toBe(16);
        expect(x.sum([0], false, { dtype: "float64" }).dtype).toBe("float64");
        expect(x.sum([0]).dtype).toBe("float32");
        expect(() => x.sum("0" as never)).toThrowError(torchError("TORCH_ARGUMENT"));
      }
    });
  });

  it("one number stands for int[2] and int[1] only", () => {
    torch.scope(() => {
      const image = torch.ones([1, 1, 4, 4]);
      expect(torch.avgPool2d(image, 2).shape).toEqual([1, 1, 2, 2]);
      expect(torch.avgPool2d(image, [2, 1]).shape).toEqual([1, 1, 2, 4]);
      expect(torch.tensorSplit(torch.arange(6), 3).length).toBe(3);
      expect(torch.tensorSplit(torch.arange(6), [2]).length).toBe(2);
      expect(() => torch.zeros(4 as unknown as number[])).toThrowError(
        torchError("TORCH_ARGUMENT", /'size' cannot be 4/),
      );
    });
  });

  it("scalars keep their kind: integral numbers are ints, -0 and fractions floats, bigints exact", () => {
    torch.scope(() => {
      const ids = torch.tensor([1n, 2n]);
      expect(ids.mul(2).dtype).toBe("int64");
      expect(ids.mul(2.5).dtype).toBe("float32");
      expect(ids.add(2n ** 60n).toTypedArray()).toEqual(BigInt64Array.of(2n ** 60n + 1n, 2n ** 60n + 2n));
      expect(ids.eq(true).tolist()).toEqual([1, 0]);
      expect(torch.tensor([0]).mul(-0).tolist()).toEqual([-0]);
      expect(torch.full([1], Number.NaN).isnan().item()).toBe(1);
      expect(torch.full([1], 1e300, { dtype: "float64" }).item()).toBe(1e300);
    });
  });

  it("lists of scalars, booleans and optional tensors", () => {
    torch.scope(() => {
      const x = torch.tensor([1, 2]);
      const [a, b] = torch.ops.aten._foreach_add([x, x], [1, 0.5]) as torch.Tensor[];
      expect([a.tolist(), b.tolist()]).toEqual([
        [2, 3],
        [1.5, 2.5],
      ]);
      const image = torch.ones([1, 1, 3, 3]);
      const kernel = torch.ones([1, 1, 2, 2]);
      const gradient = torch.ones([1, 1, 2, 2]);
      const sizes = [[1, 1], [0, 0], [1, 1], false, [0, 0], 1];
      const [input, weight, bias] = torch.ops.aten.convolution_backward(gradient, image, kernel, null, ...sizes, [
        true,
        false,
        true,
      ]) as (torch.Tensor | null)[];
      expect(input?.shape).toEqual([1, 1, 3, 3]);
      expect(weight).toBeNull();
      expect(bias?.tolist()).toEqual([4]);
      const table = torch.arange(6).view([2, 3]);
      expect((torch.ops.aten.index(table, [null, torch.tensor([2n])]) as torch.Tensor).tolist()).toEqual([[2], [5]]);
    });
  });

  it("lists longer than the shared scratch memory", () => {
    torch.scope(() => {
      const many = Array.from({ length: 5000 }, (_, i) => torch.tensor([i]));
      expect(torch.cat(many, 0).sum().item()).toBe((4999 * 5000) / 2);
      const sizes = new Array<number>(5000).fill(1);
      expect(torch.arange(5000).split(sizes).length).toBe(5000);
      expect(torch.ops.aten._foreach_mul(many, 2)).toHaveLength(5000);
      many[4999].dispose();
      expect(() => torch.cat(many, 0)).toThrowError(torchError("TORCH_DISPOSED", /'tensors' /));
    });
  });
});

describe("the generated types", () => {
  const named = (file: string) => {
    const found: { name: string; operator: string }[] = [];
    let name = "";
    for (const line of readFileSync(join(generatedFolder, file), "utf8").split("\n")) {
      name = /^(?:export )?const (\w+): \{/.exec(line)?.[1] ?? name;
      const operator = /^\} = operatorFunction\("(aten::\w+)"\)/.exec(line)?.[1];
      if (operator) found.push({ name, operator });
    }
    return found;
  };

  it("every method is on Tensor and has an operator that takes a tensor first", () => {
    const names = methodNames.split(" ");
    expect(names.length).toBeGreaterThan(450);
    for (const name of names) {
      const overloads = native.overloads(`aten::${name}`);
      expect(
        overloads.some((overload) => overload.arguments.some((argument) => argument.name === "self")),
        name,
      ).toBe(true);
      expect((torch.Tensor.prototype as unknown as Record<string, unknown>)[camelCase(name)], name).toBeTypeOf(
        "function",
      );
    }
  });

  it("every function has an operator, and is exported", () => {
    const modules: Record<string, object> = {
      "functions.ts": torch,
      "linalg.ts": torch.linalg,
      "fft.ts": torch.fft,
      "special.ts": torch.special,
    };
    let count = 0;
    for (const [file, module] of Object.entries(modules)) {
      for (const { name, operator } of named(file)) {
        expect(native.overloads(operator).length, operator).toBeGreaterThan(0);
        expect(
          (module as Record<string, unknown>)[name.replace(/_$/, "")] ?? (module as Record<string, unknown>)[name],
          name,
        ).toBeTypeOf("function");
        count++;
      }
    }
    expect(count).toBeGreaterThan(550);
  });

  // The list that the types are made from lies beside libtorch in every wheel.
  const libraries = join(root, "build", "Release", "libtorch");
  const libtorch = existsSync(libraries) ? dirname(realpathSync(libraries)) : "";
  const yaml = join(dirname(libtorch), "torchgen", "packaged", "ATen", "native", "native_functions.yaml");
  it.runIf(torch.build().torch.startsWith("2.13") && existsSync(yaml))(
    "are what the generator makes of this libtorch",
    () => {
      const out = mkdtempSync(join(tmpdir(), "diffcoder-generated-"));
      try {
        const tsx = createRequire(import.meta.url).resolve("tsx");
        execFileSync(
          process.execPath,
          ["--import", tsx, join(root, "scripts", "generate-operators.ts"), yaml, "2.13", out],
          { cwd: root },
        );
        for (const file of readdirSync(generatedFolder))
          expect(
            readFileSync(join(out, file), "utf8") === readFileSync(join(generatedFolder, file), "utf8"),
            `${file} is stale`,
          ).toBe(true);
      } finally {
        rmSync(out, { recursive: true, force: true });
      }
    },
  );
});
