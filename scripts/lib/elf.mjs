// What a built addon says about itself: the libraries it asks for, and whether they define all that it uses. Linux only.
import { spawnSync } from "node:child_process";
import { existsSync, realpathSync } from "node:fs";
import { basename, dirname, join } from "node:path";

function output(file, args) {
  const run = spawnSync(file, args, { encoding: "utf8", maxBuffer: 2 ** 29 });
  if (run.error || run.status !== 0)
    throw new Error(`${file} ${args.join(" ")}: ${run.error?.message ?? run.stderr.trim()}`);
  return run.stdout;
}

/** Names of the libraries that a shared object needs, such as "libc10.so". */
export function neededLibraries(file) {
  return [...output("readelf", ["-dW", file]).matchAll(/\(NEEDED\).*\[(.*)\]/g)].map((match) => match[1]);
}

/** The folders in which it looks for them. */
export function runPaths(file) {
  return [...output("readelf", ["-dW", file]).matchAll(/\((?:RUNPATH|RPATH)\).*\[(.*)\]/g)].flatMap(
    (match) =>
      match[1]
        .split(":")
        .map((path) => path.replaceAll("$ORIGIN", dirname(file)))
        .map((path) => (path.includes("..") && existsSync(path) ? realpathSync.native(path) : path)), // ".." goes up from where a link leads
  );
}

/** Whether it holds code for GPUs. */
export function hasDeviceCode(file) {
  return /\.nv_fatbin/.test(output("readelf", ["-SW", file]));
}

/** Symbols that a file uses and does not define. */
function undefinedSymbols(file) {
  return output("nm", ["-D", "--undefined-only", "--format=posix", file])
    .split("\n")
    .map((line) => /^(\S+) U/.exec(line)?.[1])
    .filter((name) => name !== undefined);
}

/**
 * Symbols that none of the libraries defines: loading the file would fail, or calling it. Node's own and the C library's are known to be there.
 * This stands in for loading on a machine that cannot load a CUDA libtorch.
 * @param {string} file
 */
export function unresolvedSymbols(file) {
  const folders = runPaths(file);
  const defined = new Set();
  for (const name of neededLibraries(file)) {
    const path = folders.map((folder) => join(folder, basename(name))).find(existsSync);
    if (!path) continue; // the system's: libc, libstdc++, libm
    for (const line of output("nm", ["-D", "--defined-only", "--format=posix", path]).split("\n")) {
      const symbol = line.slice(0, line.indexOf(" "));
      defined.add(symbol.replace(/@.*/, ""));
    }
  }
  return undefinedSymbols(file).filter(
    (symbol) => !symbol.includes("@") && !/^(napi_|node_api_)/.test(symbol) && !defined.has(symbol),
  );
}
