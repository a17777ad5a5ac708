import { join } from "node:path";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import { Corpus, type CorpusOptions, type CorpusSummary } from "./corpus.js";
import { DataError } from "./errors.js";
import { defaultCodeRoots, type Source } from "./file-walk.js";
import { Loader } from "./loader.js";
import {
  type DataOptions,
  type DataOptionsInput,
  parseDataOptions,
  parseSftDataOptions,
  type SftDataOptions,
  type SftDataOptionsInput,
} from "./options.js";
import { PackedDataset } from "./packing.js";
import { SftDataset, type SftSummary } from "./sft.js";
import { firstOnMachine, withCache } from "./token-cache.js";
import { hashOf, type PrepareProgress, TokenStore } from "./token-store.js";

/** A prepared corpus. */
export interface PreparedData {
  /** Training samples, read through `loader`. */
  readonly train: PackedDataset;
  /** Held-out samples, the last one padded; undefined if nothing is held out or the held-out part is empty. */
  readonly heldOut: PackedDataset | undefined;
  readonly loader: Loader;
  readonly store: TokenStore;
  /** What was read and what was skipped; for cached tokens, when they were created. */
  readonly summary: CorpusSummary;
  readonly options: DataOptions;
}

/**
 * Prepares training data from folders: lists the files, tokenizes them (or finds the tokens in the cache), packs and
 * shuffles them. If the cache cannot be written, a temporary folder is used and a warning (DATA_CACHE) is emitted.
 *
 * @throws DataError DATA_OPTIONS, DATA_NOT_FOUND, DATA_EMPTY, DATA_FILE, DATA_FORMAT, DATA_TOO_SMALL, DATA_STORE
 */
export async function prepareData(
  input: DataOptionsInput,
  tokenizer: Tokenizer,
  context: { onProgress?: (progress: PrepareProgress) => void; signal?: AbortSignal } = {},
): Promise<PreparedData> {
  const options = parseDataOptions(input);
  const { seqLen, keepDocumentBoundaries, seed, shuffle } = options;
  const corpusChoices = corpusOptions(options);
  const corpus = new Corpus(corpusChoices);
  // These keys are part of the hash that identifies a token store, so they keep the names of 0.1.0.
  const { validationSplit, ...others } = corpusChoices;
  const choices = { ...others, heldOut: validationSplit };
  const name = hashOf([choices, tokenizer.hash, options.fim ?? null]).slice(0, 16);
  const make = (cache: string) =>
    TokenStore.prepare({ corpus, tokenizer, folder: join(cache, name), choices, fim: options.fim, seed, ...context });
  const store = await firstOnMachine(() => withCache(options.cache, make));
  if (store.train.numTokens < seqLen) {
    const found = `${store.train.numTokens} tokens in ${store.train.numDocuments} documents`;
    throw new DataError(
      "DATA_TOO_SMALL",
      `${found} do not fill one sample of ${seqLen}: provide more text or reduce seqLen`,
    );
  }
  const train = new PackedDataset(store.train, { seqLen, keepDocumentBoundaries });
  const padId = tokenizer.padId ?? tokenizer.require("eos");
  const heldOut =
    store.heldOut.numTokens > 0
      ? new PackedDataset(store.heldOut, { seqLen, keepDocumentBoundaries, tail: "pad", padId })
      : undefined;
  const loader = new Loader(train, { seed, shuffle });
  return { train, heldOut, loader, store, summary: store.summary, options };
}

/**
 * Prepares fine-tuning data from files of conversations, or of prompts and answers.
 *
 * @throws DataError DATA_OPTIONS, DATA_NOT_FOUND, DATA_EMPTY, DATA_FILE, DATA_FORMAT; TokenizerError if a chat template
 *   is missing
 */
export async function prepareSftData(
  input: SftDataOptionsInput,
  tokenizer: Tokenizer,
): Promise<{ train: SftDataset; loader: Loader; summary: SftSummary; options: SftDataOptions }> {
  const options = parseSftDataOptions(input);
  const { paths, shuffle, ...rest } = options;
  const train = await SftDataset.load(paths, { tokenizer, ...rest });
  const loader = new Loader(train, { seed: options.seed, shuffle });
  return { train, loader, summary: train.summary, options };
}

function corpusOptions(options: DataOptions): CorpusOptions {
  const { paths, extensions, exclude, textFields, maxBytes, maxFileBytes, maxLineBytes, validationSplit, seed } =
    options;
  const chosen: Source[] =
    paths === "default"
      ? defaultCodeRoots(maxBytes === undefined ? {} : { maxBytes })
      : paths.map((path) => ({ path, ...(maxBytes !== undefined && { maxBytes }) }));
  const sources = chosen.map((source) => ({ ...source, exclude: [...(source.exclude ?? []), ...exclude] }));
  return { sources, extensions, textFields, limits: { maxFileBytes, maxLineBytes }, validationSplit, seed };
}
