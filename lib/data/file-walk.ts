import { execFileSync } from "node:child_process";
import { type Dirent, existsSync, readdirSync, readFileSync, realpathSync, type Stats, statSync } from "node:fs";
import { basename, dirname, extname, join, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { kindOf } from "../base/regular-file.js";
import { DataError } from "./errors.js";

/** A folder or a file to take text from. */
export interface Source {
  readonly path: string;
  /** Take files at random (the same ones each time) until they hold this many bytes. Absent: all. */
  readonly maxBytes?: number;
  /** Names of folders to leave out, beside the hidden ones and EXCLUDED_FOLDERS. */
  readonly exclude?: readonly string[];
}

/** A file that a source offers. */
export interface SourceFile {
  readonly path: string;
  /** Path within its source, with "/" on every system: two machines with the same tree get the same names. */
  readonly name: string;
  readonly extension: string;
  readonly bytes: number;
  readonly modified: number;
  /** What must stay on one side of the held-out split: a package, or what stands at the top of the source. */
  readonly group: string;
}

/** What a walk found. */
export interface Listing {
  readonly files: SourceFile[];
  /** Names of what could not be read. */
  readonly unreadable: string[];
  /** How many files had another extension. */
  readonly otherFiles: number;
  /** Those extensions, and how many files have each. */
  readonly otherExtensions: Readonly<Record<string, number>>;
}

/** Folders that hold no source of their own; node_modules counts only where the source is not a node_modules itself. */
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
 * Lists the files with one of `extensions` under a folder, hidden ones left out, ordered by name; or the one file that
 * the source is, whatever its extension. Links are followed, each folder once, so loops end.
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
    // Not localeCompare: the order must not depend on the machine's language.
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

/** "npm:@scope/name" under node_modules, whichever copy of the package it is; otherwise the first part of the name. */
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
  const why = missing ? "there is no such file or folder" : `it cannot be read (${(cause as Error).message})`;
  return new DataError("DATA_NOT_FOUND", `no data at ${path}: ${why}`, { cause });
}

/** Folders of Python's library that are tests, tables or other people's code. */
const PYTHON_EXCLUDED = ["test", "tests", "idlelib", "lib2to3", "pydoc_data", "encodings", "idle_test", "ensurepip"];
const PACKAGES_EXCLUDED = ["test", "tests", "__tests__", "locales"];

/**
 * The code that this machine has anyway: the JavaScript and TypeScript under the node_modules that this package lives
 * beside or in, and Python's standard library.
 *
 * @param options.maxBytes of each of the two. Default 8 MB, of which a fast tokenizer makes tokens in a few seconds
 * @param options.python the interpreters to ask, the first that answers counts. Default python3, then python
 * @throws DataError DATA_NOT_FOUND if there is neither
 */
export function defaultCodeRoots(options: { maxBytes?: number; python?: readonly string[] } = {}): Source[] {
  const { maxBytes = 8_000_000, python = ["python3", "python"] } = options;
  const sources: Source[] = [];
  const packages = findNodeModules(dirname(fileURLToPath(import.meta.url)));
  if (packages) sources.push({ path: packages, maxBytes, exclude: PACKAGES_EXCLUDED });
  const library = findPythonLibrary(python);
  if (library) sources.push({ path: library, maxBytes, exclude: PYTHON_EXCLUDED });
  if (sources.length === 0) {
    const asked = `no node_modules beside this package, and none of ${python.join(", ")} names a standard library`;
    throw new DataError("DATA_NOT_FOUND", `no code found on this machine: ${asked}. Name a folder of your own`);
  }
  return sources;
}

/** The node_modules of the package that `from` is in, or the one that holds that package. */
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
      // Not installed, or broken: the next one may be fine.
    }
  }
  return undefined;
}
