// The one list of sources, flags and libraries of the addon. CMakeLists.txt and binding.gyp both read it, so they cannot drift.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, relative } from "node:path";
import { cudaArchitectures, cudaToolkit, nvidiaFolders } from "./cuda.mjs";
import { libraryFile } from "./libtorch.mjs";
import { projectRoot } from "./paths.mjs";

/** Node-API version the addon is written for. */
export const napiVersion = 9;

/** The link beside the addon through which it finds libtorch's libraries. */
export const libtorchLink = "libtorch";

/** Files below native/ whose name ends in `extension`, relative to the checkout, sorted. */
export function nativeFiles(extension, root = projectRoot) {
  const folder = join(root, "native");
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(extension))
    .map((entry) => relative(root, join(entry.parentPath ?? entry.path, entry.name)))
    .sort();
}

/**
 * The sources by translation unit. Reading libtorch's headers takes most of the compiler's time, so files that need the same
 * headers are compiled together: operators with their autograd, the vector kernels of a folder, what needs c10d, and the rest.
 * @returns {{ name: string, files: string[] }[]}
 */
export function nativeUnits(root = projectRoot) {
  const units = new Map();
  for (const file of nativeFiles(".cc", root)) {
    const folder = /^native\/(\w+)\//.exec(file)?.[1];
    let name = "boundary";
    if (folder === "distributed" || file === "native/environment.cc")
      name = "distributed"; // for the headers of c10d
    else if (folder === "kernels" || folder === "attention")
      name = file.endsWith("_cpu.cc") ? `${folder}_cpu` : "operators";
    else if (file === "native/autograd.cc") name = "operators"; // torch's autograd headers are read once
    units.set(name, [...(units.get(name) ?? []), file]);
  }
  return [...units].map(([name, files]) => ({ name, files }));
}

/**
 * Writes a source for each unit, which includes the unit's files. A source that is right already is left as it is, so that it
 * is not compiled again.
 * @returns {string[]} paths of the sources
 */
export function writeUnits(folder, root = projectRoot) {
  mkdirSync(folder, { recursive: true });
  return nativeUnits(root).map(({ name, files }) => {
    // Not NAME.cc: an include of native/operators.cc would find a unit of that name beside it first.
    const path = join(folder, `${name}_unit.cc`);
    const text = files.map((file) => `#include "${relative("native", file)}"\n`).join("");
    if (!existsSync(path) || readFileSync(path, "utf8") !== text) writeFileSync(path, text);
    return path;
  });
}

/** The file of a library in the first folder that has it, under its plain name or with a version behind it. */
function findLibrary(name, folders) {
  for (const folder of folders.filter((path) => existsSync(path))) {
    const files = readdirSync(folder).filter(
      (file) => file === libraryFile(name) || file.startsWith(`${libraryFile(name)}.`),
    );
    if (files.length > 0) return join(folder, files.sort()[0]);
  }
  return null;
}

/** The archives of libtorch (not the wheels) bring a CUDA runtime under a name of their own. */
function bundledCudart(lib) {
  const file = readdirSync(lib).find((name) => /^libcudart-\w+\.so\.\d+/.test(name));
  return file ? join(lib, file) : null;
}

/**
 * Everything a build tool must know to compile the addon against one libtorch.
 * @param {import("./libtorch.mjs").Libtorch} libtorch
 * @param {{ env?: NodeJS.ProcessEnv, root?: string, platform?: NodeJS.Platform }} [options]
 */
export function nativeFlags(libtorch, { env = process.env, root = projectRoot, platform = process.platform } = {}) {
  const linux = platform === "linux";
  const require = createRequire(join(root, "package.json"));
  const lib = join(libtorch.root, "lib");
  const include = join(libtorch.root, "include");
  const toolkit = libtorch.cuda ? cudaToolkit(env, libtorch.root) : null;
  const nvidia = libtorch.cuda ? nvidiaFolders(libtorch.root) : [];

  // The wheels' headers come after the toolkit's: where both are there they must match nvcc.
  const cudaIncludes = libtorch.cuda
    ? [
        ...(toolkit ? [join(toolkit, "include"), join(toolkit, "include", "cccl")] : []),
        ...nvidia.map((f) => join(f, "include")),
      ]
    : [];
  const cudaLibraryFolders = libtorch.cuda
    ? [...nvidia.map((f) => join(f, "lib")), ...(toolkit ? [join(toolkit, "lib64"), join(toolkit, "lib")] : [])]
    : [];
  const cudart = libtorch.cuda ? (bundledCudart(lib) ?? findLibrary("cudart", cudaLibraryFolders)) : null;

  // torch's own OpenMP, so that one process has one pool of threads. at::parallel_for is inline: without -fopenmp it runs serially.
  const openmp = linux ? findLibrary("gomp", [lib]) : null;

  // Libraries are looked for in the link beside the addon (see linkLibtorch), so the file does not say where libtorch lies.
  const link = `${linux ? "$ORIGIN" : "@loader_path"}/${libtorchLink}`;
  // Not join(): ".." goes up from where the link leads.
  const besideTorch = cudart && dirname(cudart).startsWith(`${dirname(libtorch.root)}/`);
  const cudartPath = cudart && (besideTorch ? `${link}/${relative(lib, dirname(cudart))}` : dirname(cudart));

  return {
    sources: nativeFiles(".cc", root),
    cudaSources: libtorch.cuda ? nativeFiles(".cu", root) : [],
    nodeIncludes: [
      dirname(require.resolve("node-api-headers/include/node_api.h")),
      dirname(require.resolve("node-addon-api/napi.h")),
    ],
    torchIncludes: [include, join(include, "torch", "csrc", "api", "include")],
    cudaIncludes: cudaIncludes.filter((folder) => existsSync(folder)),
    defines: [
      `NAPI_VERSION=${napiVersion}`,
      "NAPI_CPP_EXCEPTIONS",
      "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
      "BUILDING_NODE_EXTENSION",
      "USE_C10D_GLOO",
      "AT_PER_OPERATOR_HEADERS", // else headers such as TensorOperators.h include every operator's
      ...(libtorch.cuda ? ["DIFFCODER_CUDA=1", "USE_CUDA", "USE_C10D_NCCL"] : []),
    ],
    cxxFlags: [
      "-fPIC",
      "-fvisibility=hidden",
      "-fvisibility-inlines-hidden",
      "-Wall",
      "-Wextra",
      "-Wno-unused-parameter",
      // Messages name native/FILE, and the addon is the same wherever the checkout and libtorch lie.
      `-fmacro-prefix-map=${root}/=`,
      `-fmacro-prefix-map=${libtorch.root}/=libtorch/`,
      `-idirafter${join(root, "native", "distributed", "stand-ins")}`, // see the README there
      ...(linux ? ["-fopenmp"] : []),
    ],
    cudaFlags: ["--expt-relaxed-constexpr", "--expt-extended-lambda", "-Xcompiler=-fPIC,-fvisibility=hidden"],
    // --no-as-needed: nothing refers to a symbol of torch_cuda by name, so the linker would drop it, and CUDA "would not be found".
    ldFlags: linux ? ["-Wl,--exclude-libs,ALL", "-Wl,--no-as-needed"] : ["-undefined", "dynamic_lookup"],
    libraries: [
      ...["c10", "torch_cpu", "torch"].map((name) => join(lib, libraryFile(name))),
      ...(libtorch.cuda ? ["c10_cuda", "torch_cuda"].map((name) => join(lib, libraryFile(name))) : []),
      ...(cudart ? [cudart] : []),
      ...(openmp ? [openmp] : []),
    ],
    rpaths: [link, ...(cudartPath && linux ? [cudartPath] : [])],
    cuda: libtorch.cuda,
    cudaToolkit: toolkit,
    cudaArchitectures: libtorch.cuda ? cudaArchitectures(env) : [],
  };
}
