// The overload that Python's torch calls, or none, and the same values: more than a thousand argument lists, right and wrong ones
// (scripts/fixtures/torch_overloads.py).
import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import * as torch from "../../lib/torch/index.js";
import { Operator } from "../../lib/torch/operator.js";
import { camelCase } from "../../lib/torch/options.js";

type Encoded = number | boolean | string | null | { t: string } | { d: torch.DType } | Encoded[];
interface Dump {
  dtype: torch.DType;
  shape: number[];
  values?: (number | string)[];
}
type Shown = Dump | Shown[] | number | boolean | string | null;
type Outcome = "refused" | "error" | { pick: string; out: Shown };
type Case = [name: string, kind: "f" | "m", args: Encoded[], named: Record<string, Encoded>, outcome: Outcome];

const file = new URL("../fixtures/torch/overloads.json", import.meta.url);
const cases = JSON.parse(readFileSync(file, "utf8")) as Case[];

const make: Record<string, () => torch.Tensor> = {
  T: () => torch.tensor([-0.5, -0.25, 0, 0.25, 0.5, 0.75]).view([2, 3]),
  S: () =>
    torch
      .eye(3)
      .mul(2)
      .add(torch.arange(9).div(16).view([3, 3])),
  I: () => torch.tensor([0n, 1n, 2n, 2n, 1n, 0n]).view([2, 3]),
  B: () => torch.tensor([true, false, true, false, true, false]).view([2, 3]),
  V: () => torch.tensor([0.25, 0.5, 0.75]),
};

function decode(value: Encoded): unknown {
  if (Array.isArray(value)) return value.map(decode);
  if (typeof value !== "object" || value === null) return value;
  return "t" in value ? make[value.t]() : value.d;
}

/** What differs, or null. Numbers to float32's accuracy, as libraries of other processors have it. */
function difference(ours: unknown, want: Shown): string | null {
  if (want === "other") return null;
  if (Array.isArray(want)) {
    if (!Array.isArray(ours) || ours.length !== want.length) return `${String(ours)} for ${want.length} results`;
    return want.map((item, i) => difference(ours[i], item)).find((problem) => problem !== null) ?? null;
  }
  if (typeof want !== "object" || want === null) {
    const near = typeof ours === "number" && typeof want === "number" && Math.abs(ours - want) < 1e-5;
    return ours === want || near || (ours === undefined && want === null) ? null : `${String(ours)}, not ${want}`;
  }
  if (!(ours instanceof torch.Tensor)) return `${String(ours)} is no tensor`;
  if (ours.dtype !== want.dtype) return `dtype ${ours.dtype}, not ${want.dtype}`;
  if (ours.shape.join() !== want.shape.join()) return `shape [${ours.shape}], not [${want.shape}]`;
  if (want.values === undefined) return null;
  const values = Array.from(ours.detach().toTypedArray() as ArrayLike<number | bigint>, Number);
  for (const [i, wanted] of want.values.entries()) {
    const number = Number(String(wanted).replace("inf", "Infinity"));
    if (Object.is(values[i], number) || Math.abs(values[i] - number) <= 1e-4 * Math.max(1, Math.abs(number))) continue;
    return `element ${i} is ${values[i]}, not ${wanted}`;
  }
  return null;
}

// Python wraps a number into a tensor where the dispatcher has an overload for it: the same values, and the same dtypes.
const wrapsNumbers = new Set([
  "add",
  "sub",
  "mul",
  "div",
  "divide",
  "multiply",
  "subtract",
  "true_divide",
  "floor_divide",
]);
const withoutKind = (overload: string) =>
  overload
    .split("_")
    .filter((part) => part !== "Scalar" && part !== "Tensor")
    .sort()
    .join();
const sameOverload = (name: string, ours: string, python: string | null) =>
  python === null ||
  ours === python ||
  (wrapsNumbers.has(name.replace(/_$/, "")) && withoutKind(ours) === withoutKind(python));

/** What the dispatcher has and Python does not bind: more out= forms, and alpha by position, which is deprecated there. */
const isOurs = ([name, , args, named]: Case, pick: string) =>
  ("out" in named && pick.includes("out")) ||
  (wrapsNumbers.has(name.replace(/_$/, "")) && pick === "Scalar" && args.length === 3);

/** What ours does that Python does not; refusing is allowed. "" for the same, "refused". */
function compare(one: Case): string {
  const [name, kind, args, named, outcome] = one;
  const values = args.map(decode);
  const all =
    Object.keys(named).length > 0
      ? [...values, Object.fromEntries(Object.entries(named).map(([key, value]) => [key, decode(value)]))]
      : values;
  torch.manualSeed(0);
  let result: unknown;
  let pick: string;
  try {
    pick = new Operator(`aten::${name}`, { isMethod: kind === "m" }).overloadFor(all);
    if (kind === "m") {
      const self = all[0] as Record<string, (...args: unknown[]) => unknown>;
      result = self[camelCase(name)](...all.slice(1));
    } else {
      result = (torch.ops.aten[name] as (...args: unknown[]) => unknown)(...all);
    }
  } catch (error) {
    return error instanceof torch.TorchError ? "refused" : `threw ${String(error)}`;
  }
  if (typeof outcome === "string")
    return isOurs(one, pick) ? "refused" : `${pick} took what Python refuses (${outcome})`;
  if (!sameOverload(name, pick, outcome.pick)) return `calls ${pick}, Python ${outcome.pick}`;
  return difference(result, outcome.out) ?? "";
}

it(`calls what Python calls: ${cases.length} argument lists`, { timeout: 300_000 }, () => {
  const problems: string[] = [];
  let same = 0;
  let succeeded = 0;
  for (const one of cases) {
    const verdict = torch.scope(() => compare(one));
    const inPython = typeof one[4] !== "string";
    if (inPython) succeeded++;
    if (verdict === "" || (verdict === "refused" && !inPython)) same += 1;
    else if (verdict !== "refused") problems.push(`${JSON.stringify(one.slice(0, 4))}: ${verdict}`);
  }
  expect(problems).toEqual([]);
  expect(cases.length).toBeGreaterThan(1500);
  expect(same / cases.length, "the same as Python, the rest refused").toBeGreaterThan(0.9);
  expect(succeeded).toBeGreaterThan(600);
});
