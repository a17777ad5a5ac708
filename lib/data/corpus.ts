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

/** Source code in the languages that any machine with Node and Python has. */
export const CODE_EXTENSIONS: readonly string[] = [".py", ".js", ".mjs", ".cjs", ".ts", ".tsx", ".jsx"];

/** What a corpus takes from folders: source code, and files of records with a text each. */
export const CORPUS_EXTENSIONS: readonly string[] = [...CODE_EXTENSIONS, ...RECORD_EXTENSIONS];

/** Not source code: the rules for line lengths do not apply. */
const PROSE_EXTENSIONS = new Set([".txt", ".md", ".rst"]);

/** What text a corpus takes and what it leaves. */
export interface CorpusOptions {
  readonly sources: readonly Source[];
  /** Of files in folders, with the dot. Default CORPUS_EXTENSIONS. A file named as a source is taken whatever it is. */
  readonly extensions?: readonly string[];
  /** Fields of a record that may hold its text, the first present one counts. Default text, content, code. */
  readonly textFields?: readonly string[];
  readonly limits?: Partial<SkipLimits>;
  /** Share of the bytes held out. Default 0. */
  readonly validationSplit?: number;
  /** Decides what is held out and, with maxBytes, what is taken. Default 0. */
  readonly seed?: number;
}

/** Which side of the held-out split a document is on. */
export type Split = "train" | "heldOut";

/** One text. */
export interface CorpusDocument {
  readonly text: string;
  /** The file's name within its source; with "#3" for the third record of a file. */
  readonly name: string;
  readonly extension: string;
  /** Length in UTF-8. */
  readonly bytes: number;
  readonly split: Split;
}

/** What a pass over a corpus met. */
export interface CorpusSummary {
  sources: string[];
  /** Files listed, and files with another extension beside them. */
  files: number;
  otherFiles: number;
  documents: number;
  bytes: number;
  heldOutDocuments: number;
  heldOutBytes: number;
  byExtension: Record<string, { documents: number; bytes: number }>;
  skipped: Partial<Record<SkipReason, number>>;
  /** Up to three names for each reason. */
  examples: Partial<Record<SkipReason, string[]>>;
}

/**
 * Documents from folders and files, in an order that depends on names alone: without duplicates, and without what no
 * model should learn from, which is counted by reason.
 */
export class Corpus {
  /** SHA-256 (hex) over the names, sizes and times of all files: changes when any of them does. */
  readonly fingerprint: string;
  /** Of the latest pass of documents(). */
  summary: CorpusSummary;

  readonly #options: CorpusOptions;
  readonly #limits: SkipLimits;
  readonly #listings: Listing[];
  readonly #heldOut: Set<SourceFile>;

  /**
   * Lists the files; reads none yet.
   *
   * @throws DataError DATA_NOT_FOUND (a source that does not exist), DATA_EMPTY (no file of the extensions)
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
      throw new DataError("DATA_EMPTY", `no text in ${where}: no file ends in ${extensions.join(" ")}${beside}`);
    }
    const { validationSplit = 0, seed = 0 } = options;
    // Source by source, so that each is held out in proportion.
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
   * Reads the documents one after the other and counts into `summary` what it meets.
   *
   * @throws DataError DATA_EMPTY, after the last one, if there was none; the message says what was skipped and why
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
      throw new DataError("DATA_EMPTY", `no usable text in ${where}: ${this.summary.files} files, all skipped: ${why}`);
    }
  }

  /** By name; where only a part is wanted, in an order that mixes all folders. */
  #order(files: readonly SourceFile[], source: Source): readonly SourceFile[] {
    if (source.maxBytes === undefined) return files;
    const order = files.map((file) => ({ file, at: hashNumber("take", this.#options.seed ?? 0, file.name) }));
    return order.sort((a, b) => a.at - b.at).map(({ file }) => file);
  }

  /** @param isNamed the file is a source itself, and not found in a folder */
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
    const isRecords = isRecordFile(file.name); // those are split record by record
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

/** A summary in a few lines for people: what was found, what was skipped and why, what is held out. */
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

/** "3 .csv, 1 .arrow": what else lies in the folders, the most first. */
function formatOthers(listings: readonly Listing[]): string {
  const counts: Record<string, number> = {};
  for (const { otherExtensions } of listings) {
    for (const [extension, count] of Object.entries(otherExtensions)) {
      counts[extension] = (counts[extension] ?? 0) + count;
    }
  }
  const entries = Object.entries(counts).sort(([, a], [, b]) => b - a);
  const shown = entries.slice(0, 6).map(([extension, count]) => `${count} ${extension}`);
  return `others are there: ${shown.join(", ")}${entries.length > shown.length ? ", ..." : ""}`;
}

/** @throws DataError DATA_FORMAT, DATA_FILE for a file of a format that is not read; FileError */
function textFormat(path: string): "text" | "records" {
  const { descriptor } = openRegularFile(path);
  try {
    const format = formatOf(path, descriptor);
    if (format === "text" || format === "binary data") return "text"; // the rules for text tell what is binary
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

/** What a record without a text has instead. */
function fieldsOf(record: unknown, wanted: readonly string[]): string {
  if (typeof record !== "object" || record === null || Array.isArray(record)) return "";
  const found = Object.keys(record).slice(0, 12).join(", ") || "none";
  return `: no ${wanted.join(", ")}; its fields: ${found.slice(0, 300)}`;
}

/** Without a byte order mark, which is not part of the text. */
function withoutMark(content: Buffer): Buffer {
  return content[0] === 0xef && content[1] === 0xbb && content[2] === 0xbf ? content.subarray(3) : content;
}
