// Brings build/Release/diffcoder.node up to date when it is not what the sources and libtorch would give now.
import { createHash } from "node:crypto";
import { existsSync, realpathSync, renameSync, rmSync, statSync, symlinkSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism, totalmem } from "node:os";
import { basename, dirname, join, relative } from "node:path";
import { addonCacheFolder, keepAddon, takeAddon } from "./addon-cache.mjs";
import { cudaToolkit, nvccVersion, requireCudaTools } from "./cuda.mjs";
import { libraryFile } from "./libtorch.mjs";
import { libtorchLink, napiVersion, nativeFiles, nativeFlags } from "./native-flags.mjs";
import { pathsOf, projectRoot } from "./paths.mjs";
import { SetupProblem } from "./problem.mjs";
import { CommandFailed, runLogged } from "./run.mjs";
import { filesBelow, fingerprint, readStamp, staleEntries, writeStamp } from "./stamp.mjs";
import { findBuildTool, findCompiler, requireBuildTools } from "./toolchain.mjs";

/** One compiler process of libtorch's headers needs about this much memory. */
const bytesPerJob = 2 * 2 ** 30;

/** Compilers at once: DIFFCODER_JOBS, else as many as cores and memory allow. */
export function buildJobs(env = process.env, cores = availableParallelism(), memory = totalmem()) {
  const asked = Number(env.DIFFCODER_JOBS);
  if (Number.isInteger(asked) && asked > 0) return asked;
  return Math.max(1, Math.min(cores, Math.floor(memory / bytesPerJob)));
}

function packageVersion(root, name) {
  try {
    return createRequire(join(root, "package.json"))(`${name}/package.json`).version;
  } catch {
    return null;
  }
}

/** Whether building for this libtorch takes nvcc. */
export function needsNvcc(libtorch, root = projectRoot) {
  return libtorch.cuda && nativeFiles(".cu", root).length > 0;
}

/** What one libtorch is, wherever it lies. The sizes tell an upgrade in place, which keeps the folder, and another build of a version. */
function libtorchIdentity({ root, version, cuda }) {
  const names = ["c10", "torch_cpu", ...(cuda ? ["torch_cuda"] : [])];
  return { version, cuda, bytes: names.map((name) => statSync(join(root, "lib", libraryFile(name))).size) };
}

/**
 * What the addon is made from. `identity` entries need a build from scratch when they change, `sources` only the build tool.
 * No entry is a path: an addon is not built again because a checkout, libtorch or a compiler lies somewhere else.
 * Node's own version is not among them: Node-API keeps one binary valid for every Node from 20 on.
 * @param {import("./libtorch.mjs").Libtorch} libtorch
 * @param {{ root?: string, env?: NodeJS.ProcessEnv }} [options]
 */
export function addonStamp(libtorch, { root = projectRoot, env = process.env } = {}) {
  const toolkit = libtorch.cuda ? cudaToolkit(env, libtorch.root) : null;
  const identity = {
    libtorch: libtorchIdentity(libtorch),
    platform: `${process.platform}-${process.arch}`,
    napi: napiVersion,
    headers: `${packageVersion(root, "node-addon-api")} ${packageVersion(root, "node-api-headers")}`,
    flags: ["CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CUDAFLAGS"].map((name) => env[name] ?? ""),
    nvcc: toolkit ? nvccVersion(toolkit) : null,
    architectures: libtorch.cuda ? (env.TORCH_CUDA_ARCH_LIST ?? null) : null,
  };
  const files = [
    ...filesBelow(join(root, "native"), (name) => /\.(cc|cu|h|cuh|inc)$/.test(name)),
    join(root, "CMakeLists.txt"),
    join(root, "scripts", "native-flags.mjs"),
    join(root, "scripts", "lib", "native-flags.mjs"),
  ];
  return { identity, sources: fingerprint(root, files), compiler: findCompiler(env)?.text ?? null };
}

/**
 * The name of an addon in the user's cache: a hash of all that decides its bytes. The same in every checkout with these sources.
 * @param {import("./libtorch.mjs").Libtorch} libtorch
 * @param {{ root?: string, env?: NodeJS.ProcessEnv }} [options]
 */
export function addonKey(libtorch, { root = projectRoot, env = process.env } = {}) {
  const flags = nativeFlags(libtorch, { root, env });
  const { defines, cxxFlags, cudaFlags, ldFlags, rpaths, cudaArchitectures } = flags;
  const named = { defines, cxxFlags, cudaFlags, ldFlags, rpaths, cudaArchitectures };
  const libraries = flags.libraries.map((path) => basename(path));
  const { glibcVersionRuntime } = /** @type {any} */ (process.report?.getReport())?.header ?? {};
  const text = JSON.stringify({ ...addonStamp(libtorch, { root, env }), ...named, libraries, glibcVersionRuntime });
  // Flags may hold the two folders; libtorch's first, because it may lie in the checkout.
  const placeless = text.replaceAll(libtorch.root, "<libtorch>").replaceAll(root, "<checkout>");
  return createHash("sha256").update(placeless).digest("hex").slice(0, 40);
}

/** The folder of libtorch's libraries as the link beside the addon names it: relative within the checkout, so that both move together. */
function linkTarget(addon, libtorch) {
  const folder = dirname(addon);
  const way = relative(folder, join(libtorch.root, "lib"));
  return way.startsWith(join("..", "..", "..")) ? join(libtorch.root, "lib") : way;
}

/** Whether the link beside the addon leads to this libtorch. */
function isLinked(addon, libtorch) {
  try {
    return realpathSync(join(dirname(addon), libtorchLink)) === realpathSync(join(libtorch.root, "lib"));
  } catch {
    return false;
  }
}

/** Makes the link beside the addon through which it finds libtorch. */
export function linkLibtorch(addon, libtorch) {
  const link = join(dirname(addon), libtorchLink);
  const temporary = `${link}.${process.pid}.tmp`;
  rmSync(temporary, { force: true });
  symlinkSync(linkTarget(addon, libtorch), temporary);
  renameSync(temporary, link);
}

const moved = "libtorch lies elsewhere";

/**
 * Why the addon must be built or linked, or an empty list.
 * @param {import("./libtorch.mjs").Libtorch} libtorch
 * @param {{ root?: string, env?: NodeJS.ProcessEnv }} [options]
 */
export function addonStaleness(libtorch, { root = projectRoot, env = process.env } = {}) {
  const paths = pathsOf(root);
  if (!existsSync(paths.addon)) return ["it was never built"];
  const found = readStamp(paths.addonStamp);
  if (!found) return ["its last build did not end"];
  const wanted = addonStamp(libtorch, { root, env });
  const changed = staleEntries(/** @type {Record<string, unknown>} */ (found.identity ?? {}), wanted.identity);
  // The usual compiler may have been updated or removed since; one that CXX names is asked for.
  if (env.CXX && wanted.compiler && found.compiler !== wanted.compiler) changed.push("compiler");
  if (changed.length > 0) return changed.map((key) => `${key} changed`);
  if (found.sources !== wanted.sources) return ["native sources changed"];
  return isLinked(paths.addon, libtorch) ? [] : [moved];
}

/**
 * Makes the addon what addonStaleness asks for, with as little work as will do.
 * @param {import("./libtorch.mjs").Libtorch} libtorch
 * @param {{ root?: string, env?: NodeJS.ProcessEnv, force?: boolean, report?: (detail: string) => void }} [options]
 * force: builds it from scratch, whatever the cache has
 * @returns {Promise<"linked" | "from the cache" | "built">}
 */
export async function provideAddon(libtorch, { root = projectRoot, env = process.env, force = false, report } = {}) {
  const paths = pathsOf(root);
  const reasons = force ? [] : addonStaleness(libtorch, { root, env });
  if (reasons.length === 1 && reasons[0] === moved) {
    linkLibtorch(paths.addon, libtorch);
    return "linked";
  }
  const cache = addonCacheFolder(env);
  const key = addonKey(libtorch, { root, env });
  const stamp = addonStamp(libtorch, { root, env });
  if (!force && takeAddon(cache, key, paths.addon)) {
    linkLibtorch(paths.addon, libtorch);
    writeStamp(paths.addonStamp, { ...stamp, cached: key });
    return "from the cache";
  }
  const addon = await buildAddon(libtorch, { root, env, force, report });
  linkLibtorch(addon, libtorch);
  writeStamp(paths.addonStamp, stamp);
  keepAddon(cache, key, addon);
  return "built";
}

/** Turns a line of ninja or make into "3/5 units/boundary_unit.cc", or null. */
export function buildProgress(line) {
  const match = /^\[\s*(\d+(?:\/\d+|%))\]\s+(.*)$/.exec(line);
  if (!match || line.includes("Re-checking globbed")) return null;
  const object = /\S*?((?:native|units)\/\S+)\.o$/.exec(match[2])?.[1];
  const what =
    object ?? (/cmake_pch/.test(match[2]) ? "precompiled headers" : /Linking/.test(match[2]) ? "linking" : "");
  return `${match[1]} ${what}`.trim();
}

function explain(error, log, root) {
  if (!(error instanceof CommandFailed)) return error;
  const first = error.lines.findIndex((line) => /\berror\b:|CMake Error|undefined reference|FAILED:|Killed/.test(line));
  const shown = first >= 0 ? error.lines.slice(first, first + 20) : error.lines.slice(-25);
  const text = error.lines.join("\n");
  const mend = [`the whole log is ${relative(root, log)}`];
  if (/Killed signal|internal compiler error: Killed|Killed/.test(text)) {
    mend.unshift("the compiler ran out of memory: DIFFCODER_JOBS=1 npm run setup");
  } else if (
    /concepts|-std=c\+\+20|requires.*C\+\+20|CXX_STANDARD is set/.test(text) &&
    /unrecognized|not supported|invalid value/.test(text)
  ) {
    mend.unshift(
      "the compiler is too old for C++20: g++ 11 or clang++ 14 and newer work; CXX=/path/to/g++ npm run setup takes another one",
    );
  } else if (/No space left/.test(text)) {
    mend.unshift("the disk is full");
  }
  mend.push("npm run setup -- --force builds it again from scratch; npx diffcoder doctor checks the machine");
  return new SetupProblem("BUILD_FAILED", `The addon does not build:\n    ${shown.join("\n    ")}`, mend);
}

/**
 * Builds the addon with cmake-js. Files that did not change are not compiled again.
 * @param {import("./libtorch.mjs").Libtorch} libtorch
 * @param {{ root?: string, env?: NodeJS.ProcessEnv, out?: string, force?: boolean, report?: (detail: string) => void }} [options]
 * out: another build folder, relative to the checkout
 * @returns {Promise<string>} path of the addon
 */
export async function buildAddon(
  libtorch,
  { root = projectRoot, env = process.env, out = "build", force = false, report = () => {} } = {},
) {
  requireBuildTools(env);
  if (needsNvcc(libtorch, root)) requireCudaTools(libtorch, env);
  const paths = pathsOf(root);
  const folder = join(root, out);
  const log = join(paths.logs, `${out}.log`);
  const configuredStamp = join(folder, "configured.json");
  // Paths count here: CMake refuses a build folder of a checkout that was moved.
  const { identity: made, compiler } = addonStamp(libtorch, { root, env });
  const toolkit = libtorch.cuda ? cudaToolkit(env, libtorch.root) : null;
  const places = { root, libtorch: libtorch.root, cxx: env.CXX ?? null, toolkit, generator: findBuildTool(env)?.name };
  const identity = { ...made, compiler, places };

  const cmakeJs = createRequire(join(root, "package.json")).resolve("cmake-js/package.json");
  const command = (name) => [
    join(dirname(cmakeJs), "bin", "cmake-js"),
    name,
    ...["--directory", root, "--out", folder, "--log-level", "warn", "--parallel", String(buildJobs(env))],
    `--CDDIFFCODER_LIBTORCH=${libtorch.root}`,
    `--CDDIFFCODER_NODE=${process.execPath}`,
  ];
  const options = { log, cwd: root, env, onLine: (line) => report(buildProgress(line) ?? "configuring") };
  try {
    const fresh = force || staleEntries(readStamp(configuredStamp), identity).length > 0;
    if (fresh || !existsSync(join(folder, "CMakeCache.txt"))) {
      rmSync(folder, { recursive: true, force: true });
      await runLogged(process.execPath, command("configure"), {
        ...options,
        log: join(paths.logs, `${out}-configure.log`),
      });
      writeStamp(configuredStamp, identity);
    }
    let last = "";
    await runLogged(process.execPath, command("build"), {
      ...options,
      onLine: (line) => {
        last = buildProgress(line) ?? last;
        report(last);
      },
    });
  } catch (error) {
    throw explain(error, log, root);
  }
  return join(folder, "Release", "diffcoder.node");
}
