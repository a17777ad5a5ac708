import { execFileSync } from "node:child_process";
import { type Dirent, existsSync, readdirSync, readFileSync, realpathSync, type Stats, statSync } from "node:fs";
import { basename, dirname, extname, join, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { kindOf } from "../base/regular-file.js";
import { DataError } from "./errors.js";

/** A folder or a file to read text from. */
export interface Source {
  readonly path: string;
  /** Select files pseudo-randomly (the same ones each time) up to this many bytes. Absent: all files. */
  readonly maxBytes?: number;
  /** Names of folders to leave out, besides hidden ones and EXCLUDED_FOLDERS. */
  readonly exclude?: readonly string[];
}

/** A file of a source. */
export interface SourceFile {
  readonly path: string;
  /** Path within its source, with "/" on every system, so that names do not depend on the machine. */
  readonly name: string;
  readonly extension: string;
  readonly bytes: number;
  readonly modified: number;
  /** Group of files that stays on one side of the held-out split: a package, or a top-level entry of the source. */
  readonly group: string;
}

/** Result of {@link listFiles}. */
export interface Listing {
  readonly files: SourceFile[];
  /** Names of the files and folders that could not be read. */
  readonly unreadable: string[];
  /** Number of files with another extension. */
  readonly otherFiles: number;
  /** Number of files per other extension. */
  readonly otherExtensions: Readonly<Record<string, number>>;
}

/**
 * Folders without original source code. node_modules is excluded only if the source is not a node_modules folder
 * itself.
 */
export const EXCLUDED_FOLDERS: readonly string[] = [
  "node_modules",
  "__pycache__",
  "site-packages",
  "dist-packages",
  "venv",
];

/** Whether a name ends in one of these extensions: ".jsonl", or ".jsonl.gz". */
export function hasExtension(name: string, extensions: Iterable<string>): boolean {
  const lower = name.toLowerCase();
  for (const extension of extensions) if (lower.endsWith(extension.toLowerCase())) return true;
  return false;
}

/**
 * Lists the files with one of `extensions` under a folder, without hidden ones, sorted by name. A source that is a file
 * is listed whatever its extension. Symbolic links are followed; each folder is visited once, so cycles end.
 *
 * @throws DataError DATA_NOT_FOUND if the path does not exist or cannot be read, DATA_FILE if it is a pipe or a device
 */
export function listFiles(source: Source, extensions: readonly string[]): Listing {
  const root = resolve(source.path);
  const stats = statOrThrow(root);
  if (!stats.isDirectory()) {
    if (!stats.isFile()) {
      const message = `cannot read ${root}: it is ${kindOf(stats)}, expected a regular file or a folder`;
      throw new DataError("DATA_FILE", message);
    }
    return { files: [describe(root, basename(root), stats)], unreadable: [], otherFiles: 0, otherExtensions: {} };
  }
  const excluded = new Set(source.exclude);
  const inPackages = root.split(sep).includes("node_modules");
  for (const name of EXCLUDED_FOLDERS) if (name !== "node_modules" || !inPackages) excluded.add(name);
  const isWanted = (name: string) => hasExtension(name, extensions);
  const found = {
    files: [] as SourceFile[],
    unreadable: [] as string[],
    otherFiles: 0,
    otherExtensions: {} as Record<string, number>,
  };
  const seen = new Set<string>();

  const walk = (folder: string, prefix: string) => {
    let entries: Dirent[];
    try {
      const real = realpathSync(folder);
      if (seen.has(real)) return;
      seen.add(real);
      entries = readdirSync(folder, { withFileTypes: true });
    } catch (cause) {
      if (prefix === "") throw notFound(folder, cause);
      found.unreadable.push(prefix);
      return;
    }
    // Not localeCompare: the order must not depend on the locale.
    entries.sort((a, b) => (a.name < b.name ? -1 : 1));
    for (const entry of entries) {
      if (entry.name.startsWith(".")) continue;
      visit(join(folder, entry.name), prefix === "" ? entry.name : `${prefix}/${entry.name}`, entry);
    }
  };
  const visit = (path: string, name: string, entry: Dirent) => {
    const isLink = entry.isSymbolicLink();
    let stats: Stats | undefined;
    try {
      if (isLink) stats = statSync(path);
    } catch {
      if (isWanted(name)) found.unreadable.push(name);
      return;
    }
    if ((stats ?? entry).isDirectory()) {
      if (!excluded.has(entry.name)) walk(path, name);
    } else if ((stats ?? entry).isFile()) {
      if (isWanted(name)) add(path, name, stats);
      else {
        const extension = extname(name) || "no extension";
        found.otherFiles++;
        found.otherExtensions[extension] = (found.otherExtensions[extension] ?? 0) + 1;
      }
    } else if (isWanted(name)) found.unreadable.push(name); // a pipe, a socket or a device
  };
  const add = (path: string, name: string, known: Stats | undefined) => {
    try {
      found.files.push(describe(path, name, known ?? statSync(path)));
    } catch {
      found.unreadable.push(name);
    }
  };
  walk(root, "");
  return found;
}

function describe(path: string, name: string, stats: Stats): SourceFile {
  return {
    path,
    name,
    extension: extname(name),
    bytes: stats.size,
    modified: stats.mtimeMs,
    group: groupOf(path, name),
  };
}

/** "npm:@scope/name" under node_modules, for every copy of the package; otherwise the first component of the name. */
function groupOf(path: string, name: string): string {
  const parts = path.split(sep);
  const at = parts.lastIndexOf("node_modules");
  if (at >= 0 && at + 2 < parts.length) {
    const [scope, inner] = parts.slice(at + 1);
    return `npm:${scope.startsWith("@") ? `${scope}/${inner}` : scope}`;
  }
  return name.split("/", 1)[0];
}

function statOrThrow(path: string): Stats {
  try {
    return statSync(path);
  } catch (cause) {
    throw notFound(path, cause);
  }
}

function notFound(path: string, cause: unknown): DataError {
  const missing = (cause as NodeJS.ErrnoException).code === "ENOENT";
  const why = missing ? "the path does not exist" : `it cannot be read (${(cause as Error).message})`;
  return new DataError("DATA_NOT_FOUND", `no data at ${path}: ${why}`, { cause });
}

/** Folders of Python's standard library with tests, tables or third-party code. */
const PYTHON_EXCLUDED = ["test", "tests", "idlelib", "lib2to3", "pydoc_data", "encodings", "idle_test", "ensurepip"];
const PACKAGES_EXCLUDED = ["test", "tests", "__tests__", "locales"];

/**
 * Code that is already on this machine: JavaScript and TypeScript in the node_modules folder beside or around this
 * package, and Python's standard library.
 *
 * @param options.maxBytes bytes to take from each of the two. Default 8 MB, which are tokenized in a few seconds
 * @param options.python interpreters to try for the path of the standard library. Default python3, then python
 * @throws DataError DATA_NOT_FOUND if neither is found
 */
export function defaultCodeRoots(options: { maxBytes?: number; python?: readonly string[] } = {}): Source[] {
  const { maxBytes = 8_000_000, python = ["python3", "python"] } = options;
  const sources: Source[] = [];
  const packages = findNodeModules(dirname(fileURLToPath(import.meta.url)));
  if (packages) sources.push({ path: packages, maxBytes, exclude: PACKAGES_EXCLUDED });
  const library = findPythonLibrary(python);
  if (library) sources.push({ path: library, maxBytes, exclude: PYTHON_EXCLUDED });
  if (sources.length === 0) {
    const asked = `no node_modules beside this package, and no standard library found through ${python.join(", ")}`;
    throw new DataError(
      "DATA_NOT_FOUND",
      `no code found on this machine: ${asked}. Give the path of a folder with code`,
    );
  }
  return sources;
}

/** The node_modules folder of the package that contains `from`, or the one that the package is installed in. */
function findNodeModules(from: string): string | undefined {
  for (let folder = from; ; folder = dirname(folder)) {
    const manifest = join(folder, "package.json");
    if (existsSync(manifest) && (JSON.parse(readFileSync(manifest, "utf8")) as { name?: string }).name) {
      const own = join(folder, "node_modules");
      if (existsSync(own)) return own;
      const holding = dirname(folder);
      return holding.endsWith("node_modules") ? holding : undefined;
    }
    if (folder === dirname(folder)) return undefined;
  }
}

function findPythonLibrary(interpreters: readonly string[]): string | undefined {
  for (const interpreter of interpreters) {
    try {
      const program = "import sysconfig; print(sysconfig.get_paths()['stdlib'])";
      const output = execFileSync(interpreter, ["-c", program], { encoding: "utf8", timeout: 20_000, stdio: "pipe" });
      const path = output.trim();
      if (existsSync(path)) return path;
    } catch {
      // Not installed or broken: try the next one.
    }
  }
  return undefined;
}
