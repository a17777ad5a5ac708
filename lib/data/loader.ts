import type { Batch } from "../model/objective.js";
import { collate, type Dataset, type DatasetDescription } from "./dataset.js";
import { DataError } from "./errors.js";
import { type OrderOptions, SampleOrder } from "./order.js";
import { PackedDataset } from "./packing.js";
import { SftRows } from "./sft-rows.js";
import { TokenReader } from "./token-reader.js";

/** The part of the stream that a rank reads. */
export interface ReadOptions {
  /** Samples per batch and rank. */
  readonly batchSize: number;
  /** Position in the stream at which reading starts. Default 0. */
  readonly position?: number;
  readonly rank?: number;
  readonly worldSize?: number;
  /** Position at which reading ends; the last batch may extend beyond it, into the next epoch. Default: endless. */
  readonly until?: number;
}

/** A batch, and the position of the stream after all ranks have read theirs. */
export interface LoadedBatch {
  readonly batch: Batch;
  /** Position to resume from, for a checkpoint. */
  readonly position: number;
  /** Epoch of the batch's first sample. */
  readonly epoch: number;
}

/** Description from which another thread of this process opens an equal loader. */
export interface LoaderDescription {
  readonly dataset: DatasetDescription;
  readonly order: OrderOptions;
  /** Properties that the opened dataset must have. */
  readonly expected: Readonly<Pick<Dataset, "seqLen" | "numSamples" | "hash">>;
}

/**
 * Reads a dataset as one endless stream of samples, in an order that depends on (seed, stage) only.
 *
 * All ranks read the same stream: with batches of b on w ranks, each step covers the next b * w positions, and rank r
 * reads the r-th b of them. Accumulated micro-batches count as steps. So the samples of a training step depend on b * w
 * * accumulation only, and a run can resume from a saved position with a different number of ranks.
 */
export class Loader {
  readonly dataset: Dataset;
  readonly order: SampleOrder;

  constructor(dataset: Dataset, options: OrderOptions = {}) {
    this.dataset = dataset;
    this.order = new SampleOrder(dataset.numSamples, options);
  }

  /** The batch at positions [position, position + batchSize). A pure function of its arguments. */
  batchAt(position: number, batchSize: number): Batch {
    checkCount("batchSize", batchSize, 1);
    const indices = Array.from({ length: batchSize }, (_, row) => position + row);
    const samples = indices.map((index) => this.order.at(index).sample);
    return collate(this.dataset, samples, indices);
  }

  /** Undefined if batches can be read in this thread only, see {@link Dataset.describe}. */
  describe(): LoaderDescription | undefined {
    const { seqLen, numSamples, hash } = this.dataset;
    const { batchAt } = Loader.prototype;
    const { at } = SampleOrder.prototype;
    if (this.batchAt !== batchAt || this.order.at !== at) return undefined; // a subclass overrides them
    const dataset = this.dataset.describe?.();
    return dataset && { dataset, order: this.order.options, expected: { seqLen, numSamples, hash } };
  }

  /**
   * Yields the batches of one rank, endlessly unless `until` is given.
   *
   * @throws DataError DATA_OPTIONS for invalid options, such as a rank outside the world
   */
  *read(options: ReadOptions): Generator<LoadedBatch, void, void> {
    const { batchSize, position = 0, rank = 0, worldSize = 1, until = Number.POSITIVE_INFINITY } = options;
    checkCount("batchSize", batchSize, 1);
    checkCount("worldSize", worldSize, 1);
    checkCount("rank", rank, 0);
    checkCount("position", position, 0);
    if (rank >= worldSize) {
      throw new DataError("DATA_OPTIONS", `rank ${rank} is outside a world of ${worldSize}`);
    }
    for (let start = position; start < until; start += batchSize * worldSize) {
      const own = start + rank * batchSize;
      const batch = this.batchAt(own, batchSize);
      yield { batch, position: start + batchSize * worldSize, epoch: this.order.at(own).epoch };
    }
  }

  /** Yields every sample once, in the dataset's order, for evaluation. The last batch may be smaller. */
  *once(batchSize: number): Generator<Batch, void, void> {
    checkCount("batchSize", batchSize, 1);
    const { numSamples } = this.dataset;
    for (let start = 0; start < numSamples; start += batchSize) {
      const samples = Array.from({ length: Math.min(batchSize, numSamples - start) }, (_, row) => start + row);
      yield collate(this.dataset, samples, samples);
    }
  }

  /** Position after `epochs` epochs, for `until`. */
  endOf(epochs: number): number {
    return Math.ceil(epochs * this.dataset.numSamples);
  }
}

function checkCount(name: string, value: number, least: number): void {
  if (!Number.isSafeInteger(value) || value < least) {
    throw new DataError("DATA_OPTIONS", `${name} must be an integer >= ${least}, got ${value}`);
  }
}

/**
 * Opens the dataset of a description, see {@link Dataset.describe}.
 *
 * @throws DataError DATA_WORKER for a module without such an export, and any error of the module
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
      throw new DataError("DATA_WORKER", `'${(description as { kind?: unknown }).kind}' is not a kind of dataset`);
  }
}

/**
 * Opens the loader of a description: its dataset and order.
 *
 * @throws DataError DATA_WORKER if the opened dataset differs from the described one
 */
export async function openLoader({ dataset: description, order, expected }: LoaderDescription): Promise<Loader> {
  const dataset = await openDataset(description);
  for (const key of ["seqLen", "numSamples", "hash"] as const) {
    if (dataset[key] === expected[key]) continue;
    const message = `describe() describes a different dataset: its ${key} is ${dataset[key]} instead of ${expected[key]}`;
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
    throw new DataError("DATA_WORKER", `${url} does not export a class or function ${name}; its exports are ${found}`);
  }
  const isClass = /^class\b/.test(Function.prototype.toString.call(made));
  return isClass ? (Reflect.construct(made, args) as Dataset) : await (made as Maker)(...args);
}

async function importModule(url: string): Promise<Record<string, unknown>> {
  // When the library runs from source, a TypeScript loader is registered already.
  if (/\.[cm]?tsx?$/.test(url) && !import.meta.url.endsWith(".ts")) (await import("tsx/esm/api")).register();
  return (await import(url)) as Record<string, unknown>;
}
