import type { Batch } from "../model/objective.js";
import { collate, type Dataset, type DatasetDescription } from "./dataset.js";
import { DataError } from "./errors.js";
import { type OrderOptions, SampleOrder } from "./order.js";
import { PackedDataset } from "./packing.js";
import { SftRows } from "./sft-rows.js";
import { TokenReader } from "./token-reader.js";

/** Who reads which part of the stream. */
export interface ReadOptions {
  /** Samples in one batch of one rank. */
  readonly batchSize: number;
  /** Position of the stream where reading starts: all positions before it were read, by whichever ranks. Default 0. */
  readonly position?: number;
  readonly rank?: number;
  readonly worldSize?: number;
  /** Position where reading ends; the last batch may reach over it, into the next epoch. Default: never. */
  readonly until?: number;
}

/** A batch and where the stream stands once every rank has read its own. */
export interface LoadedBatch {
  readonly batch: Batch;
  /** Where to go on: to be saved in a checkpoint. */
  readonly position: number;
  /** Epoch of the batch's first sample. */
  readonly epoch: number;
}

/** What another thread of this process makes an equal loader of. */
export interface LoaderDescription {
  readonly dataset: DatasetDescription;
  readonly order: OrderOptions;
  /** What the dataset must turn out to be. */
  readonly expected: Readonly<Pick<Dataset, "seqLen" | "numSamples" | "hash">>;
}

/**
 * Reads a dataset as one endless stream of samples, in an order that (seed, stage) alone decide.
 *
 * All ranks read the same stream: with batches of b on w ranks, step after step covers the next b * w positions, rank r
 * the r-th b of them. Accumulated micro-batches are steps like any other. So which samples a training step sees depends
 * on b * w * accumulation only, and a run goes on from a saved position with any other number of ranks.
 */
export class Loader {
  readonly dataset: Dataset;
  readonly order: SampleOrder;

  constructor(dataset: Dataset, options: OrderOptions = {}) {
    this.dataset = dataset;
    this.order = new SampleOrder(dataset.numSamples, options);
  }

  /** The batch at positions [position, position + batchSize). A pure function of them. */
  batchAt(position: number, batchSize: number): Batch {
    checkCount("batchSize", batchSize, 1);
    const indices = Array.from({ length: batchSize }, (_, row) => position + row);
    const samples = indices.map((index) => this.order.at(index).sample);
    return collate(this.dataset, samples, indices);
  }

  /** Undefined where batches can be read in this thread alone: see {@link Dataset.describe}. */
  describe(): LoaderDescription | undefined {
    const { seqLen, numSamples, hash } = this.dataset;
    const { batchAt } = Loader.prototype;
    const { at } = SampleOrder.prototype;
    if (this.batchAt !== batchAt || this.order.at !== at) return undefined; // a subclass with ways of its own
    const dataset = this.dataset.describe?.();
    return dataset && { dataset, order: this.order.options, expected: { seqLen, numSamples, hash } };
  }

  /**
   * Batches of one rank, endless unless `until` is given.
   *
   * @throws DataError DATA_OPTIONS for a rank outside the world and the like
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

  /** Every sample once, in the dataset's own order: to evaluate. The last batch may be smaller. */
  *once(batchSize: number): Generator<Batch, void, void> {
    checkCount("batchSize", batchSize, 1);
    const { numSamples } = this.dataset;
    for (let start = 0; start < numSamples; start += batchSize) {
      const samples = Array.from({ length: Math.min(batchSize, numSamples - start) }, (_, row) => start + row);
      yield collate(this.dataset, samples, samples);
    }
  }

  /** Position at which `epochs` epochs are over: what `until` takes. */
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
