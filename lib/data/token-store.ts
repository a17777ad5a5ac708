import { createHash, randomBytes } from "node:crypto";
import { existsSync, mkdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import * as z from "zod";
import { readTextFile } from "../base/regular-file.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import type { Corpus, CorpusDocument, CorpusSummary, Split } from "./corpus.js";
import { DataError } from "./errors.js";
import { encodeFim, type FimOptions, splitForFim } from "./fim.js";
import { TokenFile, TokenFileWriter, tokenFileHeader } from "./token-file.js";

/** Version of the file format. When it changes, existing stores are rebuilt. */
const FORMAT = 1;

const headerSchema = z.object({
  format: z.literal(FORMAT),
  /** Hashes of the tokenizer, of the corpus's files and of the choices: a store with another key is stale. */
  tokenizer: z.string(),
  sources: z.string(),
  options: z.string(),
  summary: z.custom<CorpusSummary>((value) => typeof value === "object" && value !== null),
  train: tokenFileHeader,
  heldOut: tokenFileHeader,
});

/** Progress of the preparation, reported periodically. */
export interface PrepareProgress {
  readonly documents: number;
  readonly bytes: number;
  readonly tokens: number;
}

/** Options of {@link TokenStore.prepare}. */
export interface TokenStoreOptions {
  readonly corpus: Corpus;
  readonly tokenizer: Tokenizer;
  /** Folder of this store; a stale or damaged store in it is replaced. */
  readonly folder: string;
  /** Everything besides the files that determines the corpus's documents; part of the key. */
  readonly choices?: unknown;
  readonly fim?: FimOptions;
  readonly seed?: number;
  readonly onProgress?: (progress: PrepareProgress) => void;
  readonly signal?: AbortSignal;
}

/** A corpus as tokens on disk, in a training and a held-out split. */
export class TokenStore {
  readonly folder: string;
  readonly train: TokenFile;
  readonly heldOut: TokenFile;
  readonly summary: CorpusSummary;
  /** Whether an existing store was opened. */
  readonly fromCache: boolean;
  /** Why an existing store was rebuilt, undefined otherwise. */
  readonly rebuiltBecause: string | undefined;

  private constructor(folder: string, header: z.infer<typeof headerSchema>, fromCache: boolean, because?: string) {
    this.folder = folder;
    this.train = new TokenFile(folder, "train", header.train);
    this.heldOut = new TokenFile(folder, "heldOut", header.heldOut);
    this.summary = header.summary;
    this.fromCache = fromCache;
    this.rebuiltBecause = because;
  }

  /**
   * Opens the store in `folder` if it is undamaged and was built from the same files with the same tokenizer and
   * choices. Otherwise builds it beside the folder and moves it there when it is complete. Several processes may do
   * this at the same time.
   *
   * @throws DataError DATA_EMPTY (no usable text), DATA_OPTIONS (FIM without FIM tokens), DATA_STORE (the folder cannot
   * be written); the signal's reason when it is aborted
   */
  static async prepare(options: TokenStoreOptions): Promise<TokenStore> {
    const folder = resolve(options.folder);
    const key = keyOf(options);
    let because: string | undefined;
    if (existsSync(folder)) {
      try {
        return TokenStore.#open(folder, key, true);
      } catch (error) {
        if (!(error instanceof DataError)) throw error;
        because = error.message;
      }
    }
    const making = `${folder}.making-${process.pid}-${randomBytes(4).toString("hex")}`;
    try {
      makeFolder(making);
      await writeStore(making, key, options);
      moveInto(making, folder, () => TokenStore.#open(folder, key, true));
    } catch (error) {
      throw writeError(error, making);
    } finally {
      removeFolder(making);
    }
    return TokenStore.#open(folder, key, false, because);
  }

  /** Closes the files; only large stores keep files open. */
  close(): void {
    this.train.close();
    this.heldOut.close();
  }

  static #open(folder: string, key: StoreKey, fromCache: boolean, because?: string): TokenStore {
    const path = join(folder, "header.json");
    let header: z.infer<typeof headerSchema>;
    try {
      header = headerSchema.parse(JSON.parse(readTextFile(path)));
    } catch (cause) {
      throw new DataError("DATA_STORE", `${path} is missing, damaged or of another version`, { cause });
    }
    for (const part of ["tokenizer", "sources", "options"] as const) {
      if (header[part] !== key[part]) throw new DataError("DATA_STORE", `${folder} is stale: its ${part} changed`);
    }
    return new TokenStore(folder, header, fromCache, because);
  }
}

type StoreKey = Pick<z.infer<typeof headerSchema>, "tokenizer" | "sources" | "options">;

function keyOf(options: TokenStoreOptions): StoreKey {
  const { corpus, tokenizer, choices = null, fim = null, seed = 0 } = options;
  const ids = [tokenizer.eosId, tokenizer.fim];
  return { tokenizer: tokenizer.hash, sources: corpus.fingerprint, options: hashOf([choices, fim, seed, ids]) };
}

/** SHA-256 (hex) of a JSON value. */
export function hashOf(value: unknown): string {
  return createHash("sha256").update(JSON.stringify(value)).digest("hex");
}

/** Reads, encodes and appends the documents; yields to the event loop periodically. */
async function writeStore(folder: string, key: StoreKey, options: TokenStoreOptions): Promise<void> {
  const { corpus, tokenizer, onProgress, signal } = options;
  const encode = documentEncoder(options);
  // A chosen eos may be beyond the vocabulary, in unused rows of a model's embedding.
  const numIds = Math.max(tokenizer.vocabSize, tokenizer.require("eos") + 1);
  const writers: Record<Split, TokenFileWriter> = {
    train: new TokenFileWriter(folder, "train", numIds),
    heldOut: new TokenFileWriter(folder, "heldOut", numIds),
  };
  const progress = { documents: 0, bytes: 0, tokens: 0 };
  let pausedAt = performance.now();
  try {
    for await (const document of corpus.documents()) {
      const writer = writers[document.split];
      const ids = encode(document, writer.documents);
      writer.append(ids, document.bytes, document.name);
      progress.documents++;
      progress.bytes += document.bytes;
      progress.tokens += ids.length;
      if (performance.now() - pausedAt > 50) {
        signal?.throwIfAborted();
        onProgress?.({ ...progress });
        await new Promise((done) => setImmediate(done));
        pausedAt = performance.now();
      }
    }
    onProgress?.({ ...progress });
    const [train, heldOut] = [writers.train.finish(), writers.heldOut.finish()];
    const header = { format: FORMAT, ...key, summary: corpus.summary, train, heldOut };
    writeFileSync(join(folder, "header.json"), `${JSON.stringify(header, null, 2)}\n`);
  } catch (error) {
    writers.train.abandon();
    writers.heldOut.abandon();
    throw error;
  }
}

/** Encodes a document: plain, or split for FIM (training split only), followed by eos. */
function documentEncoder(options: TokenStoreOptions): (document: CorpusDocument, index: number) => number[] {
  const { tokenizer, fim, seed = 0 } = options;
  const eos = tokenizer.require("eos");
  // A source file may contain "<[MASK_TOKEN]>" as a string: in a corpus that is plain text.
  const encode = (text: string) => tokenizer.encode(text, { addSpecialTokens: false, parseSpecialTokens: false });
  const tokens = tokenizer.fim;
  if (fim && fim.rate > 0 && !tokens) {
    const message = `fim.rate is ${fim.rate}, but the tokenizer at ${tokenizer.dir} has no FIM tokens`;
    throw new DataError("DATA_OPTIONS", `${message}. Choose them with { specialTokens: { fimPrefix, ... } }`);
  }
  return (document, index) => {
    const parts = fim && document.split === "train" ? splitForFim(document.text, fim.rate, seed, index) : undefined;
    const ids = parts && fim && tokens ? encodeFim(parts, fim.format, tokens, encode) : encode(document.text);
    ids.push(eos);
    return ids;
  };
}

/** Moves a finished store to its folder. If another process was faster, its equal store is used. */
function moveInto(made: string, folder: string, open: () => TokenStore): void {
  makeFolder(dirname(folder));
  const old = `${made}-old`;
  try {
    if (existsSync(folder)) renameSync(folder, old);
    renameSync(made, folder);
  } catch (error) {
    try {
      open().close();
    } catch {
      throw error;
    }
  } finally {
    removeFolder(old);
  }
}

/**
 * mkdirSync with `recursive` never returns on a file system that reports ENOENT for folders it cannot create, such as
 * /proc; this does.
 */
function makeFolder(path: string): void {
  try {
    mkdirSync(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EEXIST" && statSync(path).isDirectory()) return;
    if (code !== "ENOENT" || existsSync(dirname(path))) throw error;
    makeFolder(dirname(path));
    mkdirSync(path);
  }
}

/** Errors are ignored, because the original error is more informative. */
function removeFolder(path: string): void {
  try {
    rmSync(path, { recursive: true, force: true });
  } catch {}
}

function writeError(error: unknown, folder: string): unknown {
  const { code, syscall, message } = error as NodeJS.ErrnoException;
  if (syscall === undefined) return error;
  const why = code === "ENOSPC" ? "the disk is full" : message;
  return new DataError("DATA_STORE", `cannot write the token store ${folder}: ${why}`, { cause: error });
}
