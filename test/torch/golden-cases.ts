// The cases of test/fixtures/torch/operators.json, which scripts/fixtures/torch_operators.py writes, on any device.
import { readFileSync } from "node:fs";
import { expect } from "vitest";
import * as torch from "../../lib/torch/index.js";
import { camelCase } from "../../lib/torch/options.js";

type Value = number | boolean | "nan" | "inf" | "-inf";
interface Dump {
  dtype: torch.DType;
  shape: number[];
  values: Value[];
}
interface TensorRef {
  tensor: string;
  dtype?: torch.DType;
}
export interface Case {
  name: string;
  args: unknown[];
  named?: Record<string, unknown>;
  method?: boolean;
  inplace?: boolean;
  results: (Dump | number | boolean)[];
  grads?: Dump[];
}

export interface IndexCase {
  index: unknown[];
  shape: number[];
  values: number[];
  isView: boolean;
  written: number[];
}

const file = new URL("../fixtures/torch/operators.json", import.meta.url);
export const fixture = JSON.parse(readFileSync(file, "utf8")) as {
  pool: Record<string, Dump>;
  cases: Case[];
  indexing: IndexCase[];
};

const toNumber = (value: Value) =>
  typeof value === "string" ? Number(value.replace("inf", "Infinity")) : Number(value);

const isRef = (value: unknown): value is TensorRef => typeof value === "object" && value !== null && "tensor" in value;

function find(name: string): (...args: unknown[]) => unknown {
  let target: unknown = torch;
  for (const part of name.replace("nn.functional.", "").split("."))
    target = (target as Record<string, unknown>)[camelCase(part)];
  expect(target, `torch.${name}`).toBeTypeOf("function");
  return target as (...args: unknown[]) => unknown;
}

const tolerance: Partial<Record<torch.DType, number>> = { float64: 1e-12, float16: 2e-3, bfloat16: 1.6e-2 };

/** Runs cases on a device. `slack` widens the tolerances: other kernels add in another order. */
export class Golden {
  constructor(
    readonly device = "cpu",
    readonly slack = 1,
  ) {}

  #load({ tensor, dtype }: TensorRef): torch.Tensor {
    const dump = fixture.pool[tensor];
    const made = torch.tensor(dump.values.map(toNumber), { dtype: dump.dtype, device: this.device }).view(dump.shape);
    return dtype === undefined ? made : made.to(dtype);
  }

  /** The fixture's arguments as ours; `made` collects the tensors that take a gradient. */
  #decode(value: unknown, grad: boolean, made: torch.Tensor[]): unknown {
    if (Array.isArray(value)) return value.map((item) => this.#decode(item, grad, made));
    if (!isRef(value)) return value;
    const tensor = this.#load(value);
    if (grad && tensor.isFloatingPoint()) made.push(tensor.requiresGrad_());
    return tensor;
  }

  #expect(actual: torch.Tensor, expected: Dump, what: string): void {
    expect(actual.dtype, `${what}: dtype`).toBe(expected.dtype);
    expect(actual.shape, `${what}: shape`).toEqual(expected.shape);
    const real = actual.isComplex() ? torch.viewAsReal(actual.resolveConj()) : actual;
    const values = Array.from(real.detach().toTypedArray() as ArrayLike<number | bigint>, Number);
    const wanted = expected.values.map(toNumber);
    expect(values.length, `${what}: elements`).toBe(wanted.length);
    const exact = !(actual.isFloatingPoint() || actual.isComplex());
    const relative = exact ? 0 : this.slack * (tolerance[expected.dtype] ?? 2e-5);
    for (const [i, want] of wanted.entries()) {
      if (Object.is(values[i], want) || values[i] === want) continue;
      if (Math.abs(values[i] - want) <= relative * Math.max(1, Math.abs(want))) continue;
      expect.fail(`${what}: element ${i} is ${values[i]}, Python has ${want}`);
    }
  }

  /** Numbers from -0.5 to 1 for the loss that is differentiated. */
  #weights(like: torch.Tensor): torch.Tensor {
    const numbers = Array.from({ length: like.numel() }, (_, i) => (i % 7) * 0.25 - 0.5);
    return torch.tensor(numbers, { dtype: like.dtype, device: like.device }).view(like.shape);
  }

  /** One operator: its results, and the gradients where the case has them. */
  run(one: Case): void {
    const made: torch.Tensor[] = [];
    const grad = one.grads !== undefined;
    const decode = (value: unknown) => this.#decode(value, grad, made);
    const args = one.args.map(decode);
    const named =
      one.named && Object.fromEntries(Object.entries(one.named).map(([key, value]) => [key, decode(value)]));
    if (grad && one.inplace) args[0] = (args[0] as torch.Tensor).mul(1);
    const all = named ? [...args, named] : args;
    let result: unknown;
    if (one.method || one.inplace) {
      const [self, ...rest] = all as [torch.Tensor, ...unknown[]];
      const method = (self as unknown as Record<string, (...args: unknown[]) => unknown>)[camelCase(one.name)];
      expect(method, `Tensor.${one.name}`).toBeTypeOf("function");
      result = method.apply(self, rest);
      if (one.inplace) expect(result).toBe(self);
    } else {
      result = find(one.name)(...all);
    }
    const results = Array.isArray(result) ? result : [result];
    expect(results.length).toBe(one.results.length);
    for (const [i, expected] of one.results.entries()) {
      if (typeof expected === "object") this.#expect(results[i] as torch.Tensor, expected, `result ${i}`);
      else expect(results[i]).toBe(expected);
    }
    if (!one.grads) return;
    const floating = (results as torch.Tensor[]).filter((tensor) => tensor.isFloatingPoint());
    const losses = floating.map((tensor) => tensor.mul(this.#weights(tensor)).sum());
    const loss = losses.reduce((sum, term) => sum.add(term));
    const gradients = torch.grad([loss], made);
    for (const [i, expected] of one.grads.entries())
      this.#expect(gradients[i] as torch.Tensor, expected, `gradient ${i}`);
  }

  #index(part: unknown): torch.Index {
    if (isRef(part)) return this.#load(part);
    if (typeof part === "object" && part !== null && "slice" in part)
      return torch.slice(...(part as { slice: [number | null, number | null, number] }).slice);
    return part as torch.Index;
  }

  /** One index: what it reads, whether that is a view, and what it writes. */
  runIndex(one: IndexCase): void {
    const decode = (part: unknown) => this.#index(part);
    const cube = this.#load({ tensor: "cube" });
    const part = cube.index(...one.index.map(decode));
    expect(part.shape).toEqual(one.shape);
    expect(Array.from(part.toTypedArray(), Number)).toEqual(one.values);
    // A view sees what is written to the whole.
    if (one.values.length > 0) {
      const before = part.tolist();
      cube.add_(1000);
      if (one.isView) expect(part.tolist()).not.toEqual(before);
      else expect(part.tolist()).toEqual(before);
    }
    const target = this.#load({ tensor: "cube" });
    expect(target.indexPut_(one.index.map(decode), -1.5)).toBe(target);
    const written = Array.from(target.toTypedArray(), Number).flatMap((value, i) => (value === -1.5 ? [i] : []));
    expect(written).toEqual(one.written);
  }
}

/** The cases with titles that differ. */
export function titled(): { title: string; one: Case }[] {
  const counts = new Map<string, number>();
  return fixture.cases.map((one) => {
    const nth = (counts.get(one.name) ?? 0) + 1;
    counts.set(one.name, nth);
    return { title: nth > 1 ? `${one.name} (${nth})` : one.name, one };
  });
}
