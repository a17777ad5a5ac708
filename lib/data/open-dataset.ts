import type { Dataset, DatasetDescription } from "./dataset.js";
import { DataError } from "./errors.js";
import { Loader, type LoaderDescription } from "./loader.js";
import { PackedDataset } from "./packing.js";
import { SftRows } from "./sft-rows.js";
import { TokenReader } from "./token-reader.js";

// No import here or below may load the addon: threads that read data run this.

/**
 * The dataset that a description stands for, see {@link Dataset.describe}.
 *
 * @throws DataError DATA_WORKER for a module without such an export, and whatever the module throws
 */
export async function openDataset(description: DatasetDescription): Promise<Dataset> {
  switch (description.kind) {
    case "packed":
      return new PackedDataset(new TokenReader(description.source), description.options);
    case "sft":
      return new SftRows(description.parts);
    case "module":
      return await openModule(description);
    default:
      throw new DataError("DATA_WORKER", `no dataset is of kind '${(description as { kind?: unknown }).kind}'`);
  }
}

/**
 * As {@link openDataset}, with its order.
 *
 * @throws DataError DATA_WORKER where the dataset is another one than was described
 */
export async function openLoader({ dataset: description, order, expected }: LoaderDescription): Promise<Loader> {
  const dataset = await openDataset(description);
  for (const key of ["seqLen", "numSamples", "hash"] as const) {
    if (dataset[key] === expected[key]) continue;
    const message = `describe() leads to another dataset: its ${key} is ${dataset[key]} instead of ${expected[key]}`;
    throw new DataError("DATA_WORKER", message);
  }
  return new Loader(dataset, order);
}

type ModuleDescription = Extract<DatasetDescription, { kind: "module" }>;
type Maker = (...args: readonly unknown[]) => Dataset | Promise<Dataset>;

async function openModule({ module, export: name, args = [] }: ModuleDescription): Promise<Dataset> {
  const url = String(module);
  const exports = await importModule(url);
  const made = exports[name] ?? (exports.default as Record<string, unknown> | undefined)?.[name];
  if (typeof made !== "function") {
    const found = Object.keys(exports).join(", ") || "nothing";
    throw new DataError("DATA_WORKER", `${url} exports no class or function ${name}, but ${found}`);
  }
  const isClass = /^class\b/.test(Function.prototype.toString.call(made));
  return isClass ? (Reflect.construct(made, args) as Dataset) : await (made as Maker)(...args);
}

async function importModule(url: string): Promise<Record<string, unknown>> {
  // Whoever runs this library from source has what compiles TypeScript loaded.
  if (/\.[cm]?tsx?$/.test(url) && !import.meta.url.endsWith(".ts")) (await import("tsx/esm/api")).register();
  return (await import(url)) as Record<string, unknown>;
}
