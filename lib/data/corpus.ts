import { createHash } from "node:crypto";
import { closeSync } from "node:fs";
import { resolve } from "node:path";
import { FileError, openRegularFile, readRegularFile } from "../base/regular-file.js";
import { refuseRenamed } from "../base/renamed-options.js";
import { DataError } from "./errors.js";
import { formatOf, refuseFormat } from "./file-format.js";
import { hasExtension, type Listing, listFiles, type Source, type SourceFile } from "./file-walk.js";
import { chooseHeldOut, hashNumber, isRecordHeldOut } from "./held-out.js";
import { isRecordFile, RECORD_EXTENSIONS, recordItems } from "./record-files.js";
import { DEFAULT_LIMITS, isGeneratedName, reasonToSkip, type SkipLimits, type SkipReason } from "./skip-rules.js";

/** Extensions of source code that every machine with Node and Python has. */
export const CODE_EXTENSIONS: readonly string[] = [".py", ".js", ".mjs", ".cjs", ".ts", ".tsx", ".jsx"];

/** Extensions that a corpus takes from folders: source code, and files of records with one text each. */
export const CORPUS_EXTENSIONS: readonly string[] = [...CODE_EXTENSIONS, ...RECORD_EXTENSIONS];

/** Prose, for which the limits on line lengths do not apply. */
const PROSE_EXTENSIONS = new Set([".txt", ".md", ".rst"]);

/** Options that select the text of a corpus. */
export interface CorpusOptions {
  readonly sources: readonly Source[];
  /**
   * Extensions of files in folders, with the dot. Default CORPUS_EXTENSIONS. A file given as a source itself is always
   * taken.
   */
  readonly extensions?: readonly string[];
  /** Fields of a record that may contain its text; the first one present is used. Default text, content, code. */
  readonly textFields?: readonly string[];
  readonly limits?: Partial<SkipLimits>;
  /** Share of the bytes that is held out. Default 0. */
  readonly validationSplit?: number;
  /** Random seed of the held-out split and, with maxBytes, of the selection of files. Default 0. */
  readonly seed?: number;
}

/** Side of the held-out split that a document is on. */
export type Split = "train" | "heldOut";

/** One document of a corpus. */
export interface CorpusDocument {
  readonly text: string;
  /** Name of the file within its source; with the suffix "#3" for the third record of a file. */
  readonly name: string;
  readonly extension: string;
  /** Length in UTF-8 bytes. */
  readonly bytes: number;
  readonly split: Split;
}

/** Statistics of a pass over a corpus. */
export interface CorpusSummary {
  sources: string[];
  /** Files listed, and files that were ignored because of their extension. */
  files: number;
  otherFiles: number;
  documents: number;
  bytes: number;
  heldOutDocuments: number;
  heldOutBytes: number;
  byExtension: Record<string, { documents: number; bytes: number }>;
  skipped: Partial<Record<SkipReason, number>>;
  /** Up to three names per reason. */
  examples: Partial<Record<SkipReason, string[]>>;
}

/**
 * Documents from folders and files, in an order that depends on their names only. Duplicates and unsuitable files are
 * skipped and counted by reason.
 */
export class Corpus {
  /** SHA-256 (hex) over the names, sizes and modification times of all files. */
  readonly fingerprint: string;
  /** Statistics of the latest pass of documents(). */
  summary: CorpusSummary;

  readonly #options: CorpusOptions;
  readonly #limits: SkipLimits;
  readonly #listings: Listing[];
  readonly #heldOut: Set<SourceFile>;

  /**
   * Lists the files without reading them.
   *
   * @throws DataError DATA_NOT_FOUND (a source that does not exist), DATA_EMPTY (no file with one of the extensions)
   */
  constructor(options: CorpusOptions) {
    refuseRenamed(options, ["validationSplit"], (text) => new DataError("DATA_OPTIONS", text));
    this.#options = options;
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
    const extensions = options.extensions ?? CORPUS_EXTENSIONS;
    this.#listings = options.sources.map((source) => listFiles(source, extensions));
    const files = this.#listings.flatMap((listing) => listing.files);
    this.summary = this.#newSummary();
    if (files.length === 0) {
      const where = options.sources.map((source) => source.path).join(", ") || "no source";
      const beside = this.summary.otherFiles > 0 ? ` (${formatOthers(this.#listings)})` : "";
      throw new DataError("DATA_EMPTY", `no text found in ${where}: no file ends in ${extensions.join(" ")}${beside}`);
    }
    const { validationSplit = 0, seed = 0 } = options;
    // Chosen per source, so that the same share of each is held out.
    this.#heldOut = new Set();
    for (const listing of this.#listings) {
      const usable = listing.files.filter((file) => this.#mayBeHeldOut(file));
      for (const file of chooseHeldOut(usable, validationSplit, seed)) this.#heldOut.add(file);
    }
    const hash = createHash("sha256");
    for (const file of files) hash.update(`${file.path}\0${file.name}\0${file.bytes}\0${file.modified}\n`);
    this.fingerprint = hash.digest("hex");
  }

  /**
   * Reads the documents one after the other and updates `summary`.
   *
   * @throws DataError DATA_EMPTY, at the end, if there was no document; the message lists the skipped files by reason
   */
  async *documents(): AsyncGenerator<CorpusDocument, void, void> {
    this.summary = this.#newSummary();
    const seen = new Set<string>();
    for (const [i, source] of this.#options.sources.entries()) {
      let bytes = 0;
      for (const file of this.#order(this.#listings[i].files, source)) {
        if (source.maxBytes !== undefined && bytes >= source.maxBytes) break;
        for await (const document of this.#read(file, resolve(source.path) === file.path)) {
          const key = createHash("sha256").update(document.text).digest("base64");
          if (seen.has(key)) {
            this.#skip("duplicate", document.name);
            continue;
          }
          seen.add(key);
          bytes += document.bytes;
          this.#count(document);
          yield document;
        }
      }
    }
    if (this.summary.documents === 0) {
      const where = this.#options.sources.map((source) => source.path).join(", ");
      const why = formatSkipped(this.summary);
      throw new DataError(
        "DATA_EMPTY",
        `no usable text in ${where}: all ${this.summary.files} files were skipped: ${why}`,
      );
    }
  }

  /** Sorted by name; with `maxBytes`, in a pseudo-random order that mixes all folders. */
  #order(files: readonly SourceFile[], source: Source): readonly SourceFile[] {
    if (source.maxBytes === undefined) return files;
    const order = files.map((file) => ({ file, at: hashNumber("take", this.#options.seed ?? 0, file.name) }));
    return order.sort((a, b) => a.at - b.at).map(({ file }) => file);
  }

  /** @param isNamed whether the file is a source itself, not found in a folder */
  async *#read(file: SourceFile, isNamed: boolean): AsyncGenerator<CorpusDocument, void, void> {
    if (isGeneratedName(file.name)) return this.#skip("generated", file.name);
    if (isRecordFile(file.name)) return yield* this.#readRecords(file);
    let content: Buffer;
    try {
      const sniffed = isNamed || hasExtension(file.name, [".csv", ".tsv"]) ? textFormat(file.path) : "text";
      if (sniffed !== "text") return yield* this.#readRecords(file);
      if (file.bytes > this.#limits.maxFileBytes) return this.#skip("too large", file.name);
      content = readRegularFile(file.path, this.#limits.maxFileBytes);
    } catch (error) {
      if (!(error instanceof FileError)) throw error;
      return this.#skip(error.problem === "too large" ? "too large" : "unreadable", file.name);
    }
    const reason = reasonToSkip(content, this.#limits, PROSE_EXTENSIONS.has(file.extension));
    if (reason) return this.#skip(reason, file.name);
    const text = withoutMark(content).toString("utf8");
    yield this.#document(text, file.name, file.extension, this.#heldOut.has(file));
  }

  async *#readRecords(file: SourceFile): AsyncGenerator<CorpusDocument, void, void> {
    const { textFields = ["text", "content", "code"], validationSplit = 0, seed = 0 } = this.#options;
    try {
      for await (const { number, value, problem } of recordItems(file.path)) {
        const name = `${file.name}#${number}`;
        const text = textOfRecord(value, textFields);
        if (text === undefined) {
          this.#skip(problem === "not UTF-8" ? problem : "bad record", `${name}${fieldsOf(value, textFields)}`);
          continue;
        }
        const reason = reasonToSkip(Buffer.from(text), this.#limits, true);
        if (reason) this.#skip(reason, name);
        else yield this.#document(text, name, file.extension, isRecordHeldOut(text, validationSplit, seed));
      }
    } catch (error) {
      if (!(error instanceof DataError && error.cause instanceof FileError)) throw error;
      this.#skip("unreadable", file.name);
    }
  }

  #document(text: string, name: string, extension: string, heldOut: boolean): CorpusDocument {
    return { text, name, extension, bytes: Buffer.byteLength(text), split: heldOut ? "heldOut" : "train" };
  }

  #mayBeHeldOut(file: SourceFile): boolean {
    const isRecords = isRecordFile(file.name); // the held-out split of these is per record
    return !isRecords && file.bytes > 0 && file.bytes <= this.#limits.maxFileBytes && !isGeneratedName(file.name);
  }

  #newSummary(): CorpusSummary {
    const summary: CorpusSummary = {
      sources: this.#options.sources.map((source) => source.path),
      files: 0,
      otherFiles: 0,
      documents: 0,
      bytes: 0,
      heldOutDocuments: 0,
      heldOutBytes: 0,
      byExtension: {},
      skipped: {},
      examples: {},
    };
    this.summary = summary;
    for (const listing of this.#listings) {
      summary.files += listing.files.length;
      summary.otherFiles += listing.otherFiles;
      for (const name of listing.unreadable) this.#skip("unreadable", name);
    }
    return summary;
  }

  #count(document: CorpusDocument): void {
    const { summary } = this;
    summary.documents++;
    summary.bytes += document.bytes;
    if (document.split === "heldOut") {
      summary.heldOutDocuments++;
      summary.heldOutBytes += document.bytes;
    }
    summary.byExtension[document.extension] ??= { documents: 0, bytes: 0 };
    const kind = summary.byExtension[document.extension];
    kind.documents++;
    kind.bytes += document.bytes;
  }

  #skip(reason: SkipReason, name: string): void {
    const { skipped, examples } = this.summary;
    skipped[reason] = (skipped[reason] ?? 0) + 1;
    examples[reason] ??= [];
    if (examples[reason].length < 3) examples[reason].push(name);
  }
}

/** Formats a summary in a few lines: what was found, what was skipped and why, and what is held out. */
export function formatSummary(summary: CorpusSummary): string {
  const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(bytes < 1e6 ? 2 : 1)} MB`;
  const count = (value: number) => value.toLocaleString("en-US");
  const kinds = Object.entries(summary.byExtension)
    .sort(([, a], [, b]) => b.bytes - a.bytes)
    .map(([extension, kind]) => `${extension || "no extension"} ${megabytes(kind.bytes)}`);
  const lines = [
    `${count(summary.documents)} documents, ${megabytes(summary.bytes)} (${kinds.join(", ")})`,
    `held out: ${count(summary.heldOutDocuments)} documents, ${megabytes(summary.heldOutBytes)}`,
  ];
  const skipped = formatSkipped(summary);
  if (skipped !== "nothing") lines.push(`skipped: ${skipped}`);
  return lines.join("\n");
}

/** "3 minified (a.js, b.js, ...), 1 empty (c.py)", or "nothing". */
function formatSkipped(summary: CorpusSummary): string {
  const parts = Object.entries(summary.skipped).map(([reason, count]) => {
    const names = summary.examples[reason as SkipReason] ?? [];
    return `${count} ${reason} (${names.join(", ")}${count > names.length ? ", ..." : ""})`;
  });
  return parts.join(", ") || "nothing";
}

/** "3 .csv, 1 .arrow": the other extensions in the folders, most frequent first. */
function formatOthers(listings: readonly Listing[]): string {
  const counts: Record<string, number> = {};
  for (const { otherExtensions } of listings) {
    for (const [extension, count] of Object.entries(otherExtensions)) {
      counts[extension] = (counts[extension] ?? 0) + count;
    }
  }
  const entries = Object.entries(counts).sort(([, a], [, b]) => b - a);
  const shown = entries.slice(0, 6).map(([extension, count]) => `${count} ${extension}`);
  return `found others: ${shown.join(", ")}${entries.length > shown.length ? ", ..." : ""}`;
}

/** @throws DataError DATA_FORMAT, DATA_FILE for a file of an unsupported format; FileError */
function textFormat(path: string): "text" | "records" {
  const { descriptor } = openRegularFile(path);
  try {
    const format = formatOf(path, descriptor);
    if (format === "text" || format === "binary data") return "text"; // binary files are skipped later
    if (format === "gzip" || format === "zstd" || format === "parquet") return "records";
    throw refuseFormat(path, format);
  } finally {
    closeSync(descriptor);
  }
}

function textOfRecord(record: unknown, fields: readonly string[]): string | undefined {
  if (typeof record !== "object" || record === null) return undefined;
  for (const field of fields) {
    const value = (record as Record<string, unknown>)[field];
    if (typeof value === "string") return value;
  }
  return undefined;
}

/** Describes the fields of a record without a text. */
function fieldsOf(record: unknown, wanted: readonly string[]): string {
  if (typeof record !== "object" || record === null || Array.isArray(record)) return "";
  const found = Object.keys(record).slice(0, 12).join(", ") || "none";
  return `: no ${wanted.join(", ")}; its fields: ${found.slice(0, 300)}`;
}

/** Removes a byte order mark, which is not part of the text. */
function withoutMark(content: Buffer): Buffer {
  return content[0] === 0xef && content[1] === 0xbb && content[2] === 0xbf ? content.subarray(3) : content;
}
