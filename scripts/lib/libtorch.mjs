// Finds libtorch: LIBTORCH, else the torch of the active Python, else the project's own cache.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { delimiter, isAbsolute, join, parse, resolve } from "node:path";
import { pathsOf, projectRoot } from "./paths.mjs";

/** The version that set-up fetches when none is found. */
export const fetchedVersion = "2.13.0";
/** First and last minor version that the native sources are written for. */
export const firstVersion = [2, 11];
export const lastVersion = [2, 13];
export const versionRange = `${firstVersion.join(".")} to ${lastVersion.join(".")}`;

/**
 * @typedef {object} Libtorch
 * @property {string} root folder with lib/ and include/
 * @property {string} source where it was found: "LIBTORCH", "python" or "cache"
 * @property {string} version such as "2.13.0+cpu"
 * @property {boolean} cuda whether this is a CUDA build
 * @property {string | null} cudaVersion toolkit of a CUDA build, such as "13.0"; null if unknown
 *
 * @typedef {object} Attempt
 * @property {string} source
 * @property {string | null} path
 * @property {string | null} refused why it was not taken; null for the one that was
 *
 * @typedef {object} Discovery
 * @property {Libtorch | null} libtorch
 * @property {Attempt[]} tried in order
 * @property {boolean} fatal true if the user named a libtorch that cannot be used: nothing else may be taken instead
 */

const sharedSuffix = process.platform === "darwin" ? ".dylib" : ".so";

/** File name of a shared library on this platform, such as "libc10.so". */
export function libraryFile(name) {
  return `lib${name}${sharedSuffix}`;
}

function readIfThere(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return null;
  }
}

function isFile(path) {
  try {
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** Reads the version from the three places where wheels, archives and source builds keep it. */
function readVersion(root) {
  const python = readIfThere(join(root, "version.py"));
  const named = python?.match(/^__version__\s*=\s*['"]([^'"]+)['"]/m)?.[1];
  const cudaVersion = python?.match(/^cuda[^=\n]*=\s*['"]([^'"]+)['"]/m)?.[1] ?? null;
  if (named) return { version: named, cudaVersion };
  const archive = readIfThere(join(root, "build-version"))?.trim();
  if (archive) return { version: archive, cudaVersion };
  for (const header of ["torch/headeronly/version.h", "torch/csrc/api/include/torch/version.h"]) {
    const text = readIfThere(join(root, "include", header));
    const part = (name) => text?.match(new RegExp(`define TORCH_VERSION_${name}\\s+(\\d+)`))?.[1];
    if (part("MAJOR")) return { version: `${part("MAJOR")}.${part("MINOR")}.${part("PATCH") ?? 0}`, cudaVersion };
  }
  return { version: null, cudaVersion };
}

/** @param {string} version */
export function isAcceptedVersion(version) {
  const match = /^(\d+)\.(\d+)/.exec(version);
  if (!match) return false;
  const number = Number(match[1]) * 1000 + Number(match[2]);
  const from = firstVersion[0] * 1000 + firstVersion[1];
  const to = lastVersion[0] * 1000 + lastVersion[1];
  return number >= from && number <= to;
}

/**
 * Looks at one folder and says what libtorch it holds, or why it cannot be used.
 * @param {string} root
 * @param {{ source?: string, anyVersion?: boolean }} [options]
 * @returns {{ libtorch: Libtorch, refused: null } | { libtorch: null, refused: string }}
 */
export function inspectLibtorch(root, { source = "LIBTORCH", anyVersion = false } = {}) {
  const refuse = (reason) => ({ libtorch: null, refused: reason });
  if (!existsSync(root)) return refuse("no such folder");
  for (const name of ["c10", "torch_cpu", "torch"]) {
    const file = join(root, "lib", libraryFile(name));
    if (!isFile(file)) return refuse(`lib/${libraryFile(name)} is missing`);
  }
  for (const header of ["ATen/ATen.h", "c10/core/TensorImpl.h", "torch/library.h"]) {
    if (!isFile(join(root, "include", header))) return refuse(`include/${header} is missing (a build without headers)`);
  }
  const { version, cudaVersion } = readVersion(root);
  if (!version) return refuse("its version cannot be read (no version.py, build-version or version.h)");
  if (!isAcceptedVersion(version) && !anyVersion) {
    return refuse(`version ${version} is not ${versionRange} (DIFFCODER_ANY_LIBTORCH=1 takes it all the same)`);
  }
  const cuda = isFile(join(root, "lib", libraryFile("torch_cuda")));
  return { libtorch: { root, source, version, cuda, cudaVersion: cuda ? cudaVersion : null }, refused: null };
}

/**
 * The Python that the user's shell would run: PYTHON if set, else python3, else python on PATH.
 * @param {NodeJS.ProcessEnv} [env]
 * @returns {string | null}
 */
export function activePython(env = process.env) {
  const names = env.PYTHON ? [env.PYTHON] : ["python3", "python"];
  for (const name of names) {
    if (isAbsolute(name)) {
      if (isFile(name)) return name;
      continue;
    }
    for (const folder of (env.PATH ?? "").split(delimiter)) {
      if (folder && isFile(join(folder, name))) return join(folder, name);
    }
  }
  return null;
}

/**
 * The folder of the active Python's torch, without importing it (that alone would take seconds).
 * @param {string} python
 * @param {NodeJS.ProcessEnv} [env]
 * @returns {{ path: string | null, reason: string }}
 */
export function torchOfPython(python, env = process.env) {
  const script =
    "import importlib.util as u\ns = u.find_spec('torch')\nprint((list(s.submodule_search_locations or []) or [''])[0] if s and s.origin else '')";
  // cwd: the root, because `python -c` looks for modules in the current folder first.
  const run = spawnSync(python, ["-c", script], {
    env,
    cwd: parse(process.cwd()).root,
    encoding: "utf8",
    timeout: 30_000,
    stdio: ["ignore", "pipe", "pipe"],
  });
  if (run.error || run.status !== 0) {
    const detail = run.error?.message ?? run.stderr.trim().split("\n").at(-1) ?? "";
    return { path: null, reason: `${python} does not run: ${detail}` };
  }
  const path = run.stdout.trim();
  return path ? { path, reason: "" } : { path: null, reason: `${python} has no torch` };
}

/** Name of the file that a fetched libtorch carries once it is whole. */
export const completeMarker = "diffcoder-complete.json";

/**
 * Whether a folder of the cache is whole: it has its marker, and every library still has the size it had then.
 * @param {string} folder
 * @returns {string | null} what is wrong, or null
 */
export function cacheDefect(folder) {
  const text = readIfThere(join(folder, completeMarker));
  if (text === null) return "a fetch that was not completed";
  let marker;
  try {
    marker = JSON.parse(text);
  } catch {
    return `${completeMarker} is not JSON`;
  }
  for (const [name, bytes] of Object.entries(marker.libraries ?? {})) {
    const file = join(folder, "torch", "lib", name);
    if (!isFile(file)) return `lib/${name} is missing`;
    const size = statSync(file).size;
    if (size !== bytes) return `lib/${name} has ${size} bytes instead of ${bytes}`;
  }
  return null;
}

/** Folders of the cache that could hold a libtorch, newest version first. */
export function cacheFolders(root = projectRoot) {
  const folder = pathsOf(root).libtorchCache;
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && !entry.name.startsWith("."))
    .map((entry) => join(folder, entry.name))
    .sort((a, b) => b.localeCompare(a, "en", { numeric: true }));
}

/**
 * Looks for libtorch in the documented order. Fetches nothing.
 * @param {{ env?: NodeJS.ProcessEnv, root?: string }} [options]
 * @returns {Discovery}
 */
export function findLibtorch({ env = process.env, root = projectRoot } = {}) {
  const anyVersion = env.DIFFCODER_ANY_LIBTORCH === "1";
  /** @type {Attempt[]} */
  const tried = [];

  if (env.LIBTORCH) {
    const path = resolve(env.LIBTORCH);
    const { libtorch, refused } = inspectLibtorch(path, { source: "LIBTORCH", anyVersion });
    tried.push({ source: "LIBTORCH", path, refused });
    return { libtorch, tried, fatal: libtorch === null };
  }
  tried.push({ source: "LIBTORCH", path: null, refused: "not set" });

  const python = activePython(env);
  if (!python) {
    tried.push({ source: "python", path: null, refused: "no python3 or python on PATH" });
  } else {
    const { path, reason } = torchOfPython(python, env);
    if (!path) {
      tried.push({ source: "python", path: null, refused: reason });
    } else {
      const { libtorch, refused } = inspectLibtorch(path, { source: "python", anyVersion });
      tried.push({ source: "python", path, refused });
      if (libtorch) return { libtorch, tried, fatal: false };
    }
  }

  const folders = cacheFolders(root);
  if (folders.length === 0)
    tried.push({ source: "cache", path: pathsOf(root).libtorchCache, refused: "nothing there" });
  for (const folder of folders) {
    const path = join(folder, "torch");
    const defect = cacheDefect(folder);
    if (defect) {
      tried.push({ source: "cache", path, refused: defect });
      continue;
    }
    const { libtorch, refused } = inspectLibtorch(path, { source: "cache", anyVersion });
    tried.push({ source: "cache", path, refused });
    if (libtorch) return { libtorch, tried, fatal: false };
  }
  return { libtorch: null, tried, fatal: false };
}

/** One line per place that was looked at. */
export function describeAttempts(tried) {
  const names = { LIBTORCH: "LIBTORCH", python: "active Python", cache: "project cache" };
  return tried.map(({ source, path, refused }) => {
    const where = path ? `${names[source]}: ${path}` : names[source];
    return refused === null ? `${where}: taken` : `${where}: ${refused}`;
  });
}
