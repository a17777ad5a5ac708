import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { DataError } from "./errors.js";
import type { Source } from "./file-walk.js";

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
