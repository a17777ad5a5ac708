export type { Batch } from "../model/objective.js";
export {
  CODE_EXTENSIONS,
  CORPUS_EXTENSIONS,
  Corpus,
  type CorpusDocument,
  type CorpusOptions,
  type CorpusSummary,
  formatSummary,
  type Split,
} from "./corpus.js";
export { collate, type Dataset, type DatasetDescription, type PackingOptions, type Sample } from "./dataset.js";
export { DataError, type DataErrorCode } from "./errors.js";
export type { Source } from "./file-walk.js";
export { defaultCodeRoots } from "./file-walk.js";
export { encodeFim, type FimOptions, type FimParts, splitForFim } from "./fim.js";
export {
  type LoadedBatch,
  Loader,
  type LoaderDescription,
  openDataset,
  openLoader,
  type ReadOptions,
} from "./loader.js";
export {
  type DataOptions,
  type DataOptionsInput,
  dataOptionsSchema,
  parseDataOptions,
  parseSftDataOptions,
  type SftDataOptions,
  type SftDataOptionsInput,
  sftDataOptionsSchema,
} from "./options.js";
export { type OrderOptions, type Place, SampleOrder } from "./order.js";
export { PackedDataset, type TokenSource } from "./packing.js";
export { type DataWorkers, Prefetcher, type PrefetchOptions } from "./prefetcher.js";
export { type PreparedData, prepareData, prepareSftData } from "./prepare.js";
export type { SftSkipReason, SftSummary } from "./sft.js";
export {
  readSftRecords,
  SftDataset,
  type SftOptions,
} from "./sft.js";
export { type ParsedRecord, parseSftRecord, type SftConversation, type SftRecord } from "./sft-record.js";
export { packBestFit, packSequentially } from "./sft-rows.js";
export { DEFAULT_LIMITS, type SkipLimits, type SkipReason } from "./skip-rules.js";
export { TokenFile } from "./token-file.js";
export { type PrepareProgress, TokenStore, type TokenStoreOptions } from "./token-store.js";
