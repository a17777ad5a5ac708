// Calls public operators with arguments of the right kinds and nonsensical values. No call may end the process, leak, or
// throw anything but a TorchError. Before each call its text goes to the file named by the first argument.
import { ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";
import { methodNames } from "../../../lib/torch/generated/methods.js";
import * as torch from "../../../lib/torch/index.js";
import { type NativeArgument, native } from "../../../lib/torch/native.js";
import { crashes } from "./fuzz-crashes.js";

const [trace, seed, rounds] = process.argv.slice(2);
const log = openSync(trace, "w");
const random = new torch.Philox(Number(seed));
const pick = <T>(list: readonly T[]): T => list[random.below(list.length)];

torch.setNumThreads(1);
torch.manualSeed(1);

const generated = (file: string) =>
  [
    ...readFileSync(new URL(`../../../lib/torch/generated/${file}.ts`, import.meta.url), "utf8").matchAll(
      /"aten::(\w+)"/g,
    ),
  ].map((match) => match[1]);
const names = [...new Set([...methodNames.split(" "), ...["functions", "linalg", "fft", "special"].flatMap(generated)])]
  .filter((name) => !Object.hasOwn(crashes, name))
  .sort();

const shapes = [[], [0], [1], [3], [2, 3], [3, 3], [0, 4], [2, 3, 4], [1, 2, 5, 5], [2, 0, 3], [1, 1, 1, 1, 1]];
const dtypes = ["float32", "float64", "int64", "bool", "bfloat16", "int32", "uint8", "complex64", "float16"] as const;

function tensor(): torch.Tensor {
  const shape = pick(shapes);
  const dtype = pick(dtypes);
  const base = torch
    .arange(
      shape.reduce((a, b) => a * b, 1),
      { dtype: "float32" },
    )
    .sub(3)
    .view(shape);
  const made = base.to(dtype);
  switch (random.below(8)) {
    case 0:
      return shape.length > 1 ? made.transpose(0, 1) : made;
    case 1:
      return made.isFloatingPoint() ? made.mul(Number.NaN) : made;
    case 2:
      return made.isFloatingPoint() ? made.requiresGrad_() : made;
    case 3:
      return shape.length > 0 ? made.unsqueeze(0).expand([2, ...shape]) : made;
    default:
      return made;
  }
}

// Sizes stay small: all combinations of 17 fill the memory, and loops over 2^40 windows of nothing do not end.
const integers = [0, 1, 2, 3, -1, -2, 5, -7, 6, -(2 ** 40)];
const numbers = [0, 1, -1, 0.5, 2, Number.NaN, Number.POSITIVE_INFINITY, -1e308, 1e-45];
const strings = [
  "",
  "none",
  "mean",
  "sum",
  "linear",
  "ij,jk->ik",
  "\u0000",
  "reflect",
  "no such thing",
  "é".repeat(50),
];

function value(argument: NativeArgument): unknown {
  if (argument.optional && random.below(3) === 0) return null;
  if (argument.hasDefault && random.below(2) === 0) return undefined;
  if (argument.list) {
    const one = { ...argument, list: false, optional: argument.elementOptional, hasDefault: false };
    return Array.from({ length: random.below(5) }, () => value(one));
  }
  switch (argument.kind) {
    case "Tensor":
      return tensor();
    case "Scalar":
      return pick([...numbers, true, false, 3n]);
    case "int":
      return pick(integers);
    case "float":
      return pick(numbers);
    case "bool":
      return random.below(2) === 0;
    case "str":
      return pick(strings);
    case "dtype":
      return pick(dtypes);
    case "device":
      return pick(["cpu", "meta", "cuda", "nonsense:3", ""]);
    case "layout":
      return pick(["strided", "sparse_coo", "sparse_csr", "round"]);
    case "memory_format":
      return pick(["contiguous_format", "channels_last", "preserve_format", "flat"]);
    case "Generator":
      return new torch.Generator({ seed: 1 });
    default:
      return pick([{}, "x", 5]);
  }
}

const show = (item: unknown): string =>
  Array.isArray(item)
    ? `[${item.map(show)}]`
    : item instanceof torch.Tensor
      ? `${item.dtype}[${item.shape}]${item.isContiguous() ? "" : "!"}`
      : typeof item === "object" && item !== null
        ? "object"
        : String(item);

const codes = new Map<string, number>();
const start = torch.memory().tensors;
let calls = 0;
for (let round = 0; round < Number(rounds); round++) {
  for (const name of names) {
    for (const overload of native.overloads(`aten::${name}`)) {
      if (/out|names|Dimname/i.test(overload.overload)) continue;
      torch.scope(() => {
        const args = overload.arguments.filter((argument) => !argument.keywordOnly).map(value);
        const named = Object.fromEntries(
          overload.arguments
            .filter((argument) => argument.keywordOnly)
            .map((argument) => [argument.name, value(argument)]),
        );
        // Sometimes one argument too few, or one of another kind.
        if (random.below(10) === 0) args.pop();
        if (random.below(20) === 0 && args.length > 0)
          args[random.below(args.length)] = pick([null, undefined, {}, "text", [[1]], Symbol.iterator]);
        ftruncateSync(log, 0);
        writeSync(
          log,
          `${name}.${overload.overload}(${args.map((item) => (typeof item === "symbol" ? "symbol" : show(item))).join(", ")}; ${Object.entries(named).map(([k, v]) => `${k}=${show(v)}`)})\n`,
          0,
        );
        calls++;
        try {
          torch.ops.aten[name](...args, named);
          codes.set("ok", (codes.get("ok") ?? 0) + 1);
        } catch (error) {
          if (!(error instanceof torch.TorchError)) throw error;
          codes.set(error.code, (codes.get(error.code) ?? 0) + 1);
          if (/Exception raised from|frame #\d|0x[0-9a-f]{8,}/.test(error.message))
            throw new Error(`a backtrace: ${error.message}`);
          if (error.operator !== name) throw new Error(`${name} is called ${error.operator}: ${error.message}`);
        }
      });
    }
  }
}
const left = torch.memory().tensors - start;
console.log(JSON.stringify({ operators: names.length, calls, left, codes: Object.fromEntries(codes) }));
