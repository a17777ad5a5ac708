// Builds build/Release/diffcoder.node when it is not what the sources and libtorch would give now.
import { existsSync, rmSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism, totalmem } from "node:os";
import { dirname, join, relative } from "node:path";
import { cudaToolkit, requireCudaTools } from "./cuda.mjs";
import { libraryFile } from "./libtorch.mjs";
import { napiVersion, nativeFiles } from "./native-flags.mjs";
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

/**
 * What the addon is made from. `identity` entries need a build from scratch when they change, `sources` only the build tool.
 * Node's own version is not among them: Node-API keeps one binary valid for every Node from 20 on.
 * @param {import("./libtorch.mjs").Libtorch} libtorch
 * @param {{ root?: string, env?: NodeJS.ProcessEnv }} [options]
 */
export function addonStamp(libtorch, { root = projectRoot, env = process.env } = {}) {
  const core = join(libtorch.root, "lib", libraryFile(libtorch.cuda ? "torch_cuda" : "torch_cpu"));
  const identity = {
    libtorch: libtorch.root,
    version: libtorch.version,
    cuda: libtorch.cuda,
    // an upgrade in place keeps the folder
    libraryBytes: statSync(core).size,
    platform: `${process.platform}-${process.arch}`,
    napi: napiVersion,
    headers: `${packageVersion(root, "node-addon-api")} ${packageVersion(root, "node-api-headers")}`,
    cxx: env.CXX ?? null,
    toolkit: libtorch.cuda ? cudaToolkit(env, libtorch.root) : null,
    architectures: libtorch.cuda ? (env.TORCH_CUDA_ARCH_LIST ?? null) : null,
  };
  const files = [
    ...filesBelow(join(root, "native"), (name) => /\.(cc|cu|h|cuh|inc)$/.test(name)),
    join(root, "CMakeLists.txt"),
    join(root, "scripts", "native-flags.mjs"),
    join(root, "scripts", "lib", "native-flags.mjs"),
  ];
  return { identity, sources: fingerprint(root, files) };
}

/**
 * Why the addon must be built, or an empty list.
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
  if (changed.length > 0) return changed.map((key) => `${key} changed`);
  return found.sources === wanted.sources ? [] : ["native sources changed"];
}

/** Turns a line of ninja or make into "3/12 native/call.cc", or null. */
export function buildProgress(line) {
  const match = /^\[\s*(\d+(?:\/\d+|%))\]\s+(.*)$/.exec(line);
  if (!match || line.includes("Re-checking globbed")) return null;
  const object = /\S*?(native\/\S+)\.o$/.exec(match[2])?.[1];
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
 * out: another build folder, relative to the checkout; it then has no stamp
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
  const stamp = addonStamp(libtorch, { root, env });
  // CMake refuses a build folder of a checkout that was moved.
  const identity = { ...stamp.identity, root, generator: findBuildTool(env)?.name, compiler: findCompiler(env)?.text };

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
  if (out === "build") writeStamp(paths.addonStamp, stamp);
  return join(folder, "Release", "diffcoder.node");
}
