// The cases of test/fixtures/torch/operators.json, which scripts/fixtures/torch_operators.py writes, on any device.
import { readFileSync } from "node:fs";
import { expect } from "vitest";
import * as torch from "../../lib/torch/index.js";
import { camelCase } from "../../lib/torch/methods.js";

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

export const fixture = JSON.parse(readFileSync(new URL("../fixtures/torch/operators.json", import.meta.url), "utf8")) as {
  pool: Record<string, Dump>;
  cases: Case[];
  indexing: { index: unknown[]; shape: number[]; values: number[]; isView: boolean; written: number[] }[];
};

const toNumber = (value: Value) =>
  typeof value === "string" ? Number(value.replace("inf", "Infinity")) : Number(value);

function load({ tensor, dtype }: TensorRef): torch.Tensor {
  const dump = fixture.pool[tensor];
  const made = torch.tensor(dump.values.map(toNumber), { dtype: dump.dtype }).view(dump.shape);
  return dtype === undefined ? made : made.to(dtype);
}

const isRef = (value: unknown): value is TensorRef => typeof value === "object" && value !== null && "tensor" in value;

/** The fixture's arguments as ours; `made` collects the tensors that take a gradient. */
function decode(value: unknown, grad: boolean, made: torch.Tensor[]): unknown {
  if (Array.isArray(value)) return value.map((item) => decode(item, grad, made));
  if (!isRef(value)) return value;
  const tensor = load(value);
  if (grad && tensor.isFloatingPoint()) made.push(tensor.requiresGrad_());
  return tensor;
}

function find(name: string): (...args: unknown[]) => unknown {
  let target: unknown = torch;
  for (const part of name.replace("nn.functional.", "").split("."))
    target = (target as Record<string, unknown>)[camelCase(part)];
  expect(target, `torch.${name}`).toBeTypeOf("function");
  return target as (...args: unknown[]) => unknown;
}

const tolerance: Partial<Record<torch.DType, number>> = { float64: 1e-12, float16: 2e-3, bfloat16: 1.6e-2 };

function expectTensor(actual: torch.Tensor, expected: Dump, what: string): void {
  expect(actual.dtype, `${what}: dtype`).toBe(expected.dtype);
  expect(actual.shape, `${what}: shape`).toEqual(expected.shape);
  const real = actual.isComplex() ? torch.viewAsReal(actual.resolveConj()) : actual;
  const values = Array.from(real.detach().toTypedArray() as ArrayLike<number | bigint>, Number);
  const wanted = expected.values.map(toNumber);
  expect(values.length, `${what}: elements`).toBe(wanted.length);
  const exact = !(actual.isFloatingPoint() || actual.isComplex());
  const relative = exact ? 0 : (tolerance[expected.dtype] ?? 2e-5);
  for (const [i, want] of wanted.entries()) {
    const close =
      Object.is(values[i], want) ||
      values[i] === want ||
      Math.abs(values[i] - want) <= relative * Math.max(1, Math.abs(want));
    if (!close) expect.fail(`${what}: element ${i} is ${values[i]}, Python has ${want}`);
  }
}

const weights = (like: torch.Tensor) =>
  torch
    .tensor(
      Array.from({ length: like.numel() }, (_, i) => (i % 7) * 0.25 - 0.5),
      { dtype: like.dtype },
    )
    .view(like.shape);

function run(one: Case): void {
  const made: torch.Tensor[] = [];
  const grad = one.grads !== undefined;
  const args = one.args.map((arg) => decode(arg, grad, made));
  const named =
    one.named && Object.fromEntries(Object.entries(one.named).map(([key, value]) => [key, decode(value, grad, made)]));
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
    if (typeof expected === "object") expectTensor(results[i] as torch.Tensor, expected, `result ${i}`);
    else expect(results[i]).toBe(expected);
  }
  if (!one.grads) return;
  const floating = (results as torch.Tensor[]).filter((tensor) => tensor.isFloatingPoint());
  const losses = floating.map((tensor) => tensor.mul(weights(tensor)).sum());
  const loss = losses.reduce((sum, term) => sum.add(term));
  const gradients = torch.grad([loss], made);
  for (const [i, expected] of one.grads.entries())
    expectTensor(gradients[i] as torch.Tensor, expected, `gradient ${i}`);
}

