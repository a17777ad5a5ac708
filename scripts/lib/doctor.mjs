// What `diffcoder doctor` reports. Plain Node without packages: it must answer on a machine where nothing is installed yet.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { addonStaleness, needsNvcc } from "./addon.mjs";
import { cudaToolkit, nvccVersion, nvidiaFolders, presentGpus } from "./cuda.mjs";
import { neededLibraries } from "./elf.mjs";
import { describeAttempts, fetchedVersion, findLibtorch, libraryFile, versionRange } from "./libtorch.mjs";
import { machineFacts } from "./machine.mjs";
import { packagesStaleness } from "./packages.mjs";
import { pathsOf, projectRoot } from "./paths.mjs";
import { addonFacts } from "./probe.mjs";
import { readStamp } from "./stamp.mjs";
import { findBuildTool, findCmake, findCompiler, findPython, installCommand, requireNode } from "./toolchain.mjs";
import { distStaleness } from "./typescript.mjs";

/**
 * @typedef {object} Check
 * @property {string} name
 * @property {"ok" | "warning" | "missing"} status "missing": diffcoder cannot run without it
 * @property {string} found what is there
 * @property {string | null} mend the command or step that mends it
 *
 * @typedef {object} DoctorReport
 * @property {boolean} canRun
 * @property {Check[]} checks in the order in which they are shown
 * @property {string[]} libtorchTried one line for each place where libtorch was looked for
 * @property {Record<string, unknown>} facts the same as plain values, for programs
 */

const gigabytes = (bytes) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

/** Version of the NCCL that a CUDA torch brings, from its header; "bundled" if only the library is there. */
function ncclVersion(libtorch) {
  for (const folder of nvidiaFolders(libtorch.root)) {
    const header = join(folder, "include", "nccl.h");
    if (!existsSync(header)) continue;
    const text = readFileSync(header, "utf8");
    const part = (name) => new RegExp(`#define NCCL_${name} (\\d+)`).exec(text)?.[1];
    return `${part("MAJOR")}.${part("MINOR")}.${part("PATCH")}`;
  }
  const bundled = readdirSync(join(libtorch.root, "lib")).some((name) => name.startsWith("libnccl"));
  return bundled ? "bundled" : null;
}

/** Runs a part of the report; a fault in one must not hide the others. */
function guarded(checks, name, work) {
  try {
    return work();
  } catch (error) {
    checks.push({ name, status: "warning", found: `cannot be found out: ${error.message}`, mend: null });
    return null;
  }
}

/**
 * Looks at everything that set-up and running need. Changes nothing, and loads the addon only in a child process.
 * @param {{ root?: string, env?: NodeJS.ProcessEnv }} [options]
 * @returns {DoctorReport}
 */
export function doctorReport({ root = projectRoot, env = process.env } = {}) {
  /** @type {Check[]} */
  const checks = [];
  /** @type {(name: string, status: Check["status"], found: string, mend?: string | null) => unknown} */
  const add = (name, status, found, mend = null) => checks.push({ name, status, found, mend });
  const inCheckout = existsSync(join(root, "lib"));
  const setupCommand = inCheckout ? "npm run setup" : "npx diffcoder setup";

  // Facts first: how bad a missing tool is depends on whether there is anything left to build.
  const { libtorch, tried } = findLibtorch({ root, env });
  const paths = pathsOf(root);
  const given = env.DIFFCODER_ADDON;
  const isBuilt = existsSync(given ?? paths.addon);
  const stale = given
    ? []
    : libtorch
      ? (guarded(checks, "addon", () => addonStaleness(libtorch, { root, env })) ?? [])
      : [];
  const addon = addonFacts({ root, env });
  const origin = readStamp(paths.addonStamp)?.cached ? ", taken from the user's cache" : "";
  const mustBuild = !addon.loads || stale.length > 0;
  const tool = mustBuild ? "missing" : "warning";

  let nodeProblem = null;
  try {
    requireNode();
  } catch (error) {
    nodeProblem = error;
  }
  add(
    "Node",
    nodeProblem ? "missing" : "ok",
    `${process.versions.node} (${process.execPath})`,
    nodeProblem?.mend[0] ?? null,
  );

  const packages = packagesStaleness({ root });
  if (packages.length > 0) {
    const more = packages.length > 1 ? ` and ${packages.length - 1} more` : "";
    add("npm packages", "missing", `${packages[0]}${more}`, setupCommand);
  } else {
    add("npm packages", "ok", "as package-lock.json names them");
  }

  const compiler = findCompiler(env);
  if (compiler) add("C++ compiler", "ok", `${compiler.path}: ${compiler.text}`);
  else add("C++ compiler", tool, env.CXX ? `CXX=${env.CXX} does not run` : "none", installCommand("compiler"));
  const cmake = findCmake(env);
  add("CMake", cmake ? "ok" : tool, cmake?.version ?? "none", cmake ? null : installCommand("cmake"));
  const buildTool = findBuildTool(env);
  add(
    "build tool",
    buildTool ? "ok" : tool,
    buildTool ? `${buildTool.name} ${buildTool.version}` : "neither ninja nor make",
    buildTool ? null : installCommand("make"),
  );
  const python = findPython(env);
  const pythonNeeded = libtorch ? "warning" : "missing";
  if (!python) add("Python", pythonNeeded, "none", installCommand("python"));
  else if (!python.pip)
    add("Python", pythonNeeded, `${python.version} (${python.path}), without pip`, installCommand("pip"));
  else add("Python", "ok", `${python.version} (${python.path}), pip ${python.pip}`);

  if (libtorch) {
    const kind = libtorch.cuda ? `CUDA ${libtorch.cudaVersion ?? "build"}` : "CPU build";
    add("libtorch", "ok", `${libtorch.version}, ${kind}, from ${libtorch.source}: ${libtorch.root}`);
  } else if (env.LIBTORCH) {
    add(
      "libtorch",
      "missing",
      `LIBTORCH=${env.LIBTORCH}: ${tried[0].refused}`,
      `point LIBTORCH at libtorch ${versionRange}, or unset it`,
    );
  } else {
    add("libtorch", "missing", "none", `${setupCommand}  (fetches ${fetchedVersion} with pip)`);
  }

  if (!isBuilt) {
    add("addon", "missing", given ? `DIFFCODER_ADDON=${given}: no such file` : "not built", setupCommand);
  } else if (!addon.loads) {
    add("addon", "missing", `does not load: ${addon.error}`, `${setupCommand} -- --force`);
  } else if (stale.length > 0) {
    add("addon", "warning", `for libtorch ${addon.torch}, out of date: ${stale.join(", ")}`, setupCommand);
  } else if (!libtorch) {
    add("addon", "warning", `for libtorch ${addon.torch}; loads, but cannot be rebuilt`, setupCommand);
  } else {
    add(
      "addon",
      "ok",
      `for libtorch ${addon.torch}, ${addon.cudaBuild ? "CUDA" : "CPU"}${given ? `, DIFFCODER_ADDON=${given}` : origin}`,
    );
  }

  if (inCheckout) {
    const compiled = existsSync(join(paths.dist, "cli", "main.js"));
    const distReasons = distStaleness({ root });
    if (!compiled) add("TypeScript", "missing", "not compiled", setupCommand);
    else if (distReasons.length > 0) add("TypeScript", "warning", "lib/ changed since it was compiled", setupCommand);
    else add("TypeScript", "ok", "compiled");
  }

  const gpus = presentGpus(env);
  const toolkit = cudaToolkit(env, libtorch?.root);
  const nccl = libtorch?.cuda ? guarded(checks, "NCCL", () => ncclVersion(libtorch)) : null;
  const described = gpus.map((gpu) => `${gpu.name} (${gpu.capability}, ${gigabytes(gpu.memoryBytes)})`).join(", ");
  if (libtorch?.cuda) {
    const nvcc = toolkit ? nvccVersion(toolkit) : null;
    if (nvcc) add("CUDA toolkit", "ok", `nvcc ${nvcc} (${toolkit})`);
    else
      add(
        "CUDA toolkit",
        needsNvcc(libtorch, root) ? tool : "warning",
        "no nvcc",
        `install CUDA ${libtorch.cudaVersion ?? ""} and set CUDA_HOME to it`,
      );
    if (isBuilt && process.platform === "linux") {
      guarded(checks, "CUDA linking", () => {
        const linked = neededLibraries(given ?? paths.addon).includes(libraryFile("torch_cuda"));
        if (linked) add("CUDA linking", "ok", "the addon loads libtorch_cuda");
        else
          add(
            "CUDA linking",
            "missing",
            "the linker dropped libtorch_cuda: CUDA would not be found",
            `${setupCommand} -- --force`,
          );
      });
    }
    if (addon.loads && addon.cudaDevices > 0) {
      add(
        "CUDA devices",
        "ok",
        `${addon.cudaDevices}: ${described || "no nvidia-smi"}; driver ${gpus[0]?.driver ?? "?"}`,
      );
    } else {
      const why =
        gpus.length > 0 ? `nvidia-smi sees ${described}, libtorch sees none` : "none (nvidia-smi finds no driver)";
      add("CUDA devices", "warning", why, "install or update NVIDIA's driver; without it only device=cpu works");
    }
    add(
      "NCCL",
      nccl ? "ok" : "warning",
      nccl ?? "not found",
      nccl ? null : "python3 -m pip install --force-reinstall torch",
    );
  } else if (gpus.length > 0) {
    add(
      "CUDA devices",
      "warning",
      `${described} not used: libtorch is a CPU build`,
      "activate a Python with a CUDA torch (or set LIBTORCH to a CUDA build), then npm run setup",
    );
  } else {
    add("CUDA devices", "ok", "none (CPU build of libtorch)");
  }

  const machine = machineFacts(root);
  const { cpu, memory, terminal } = machine;
  const features =
    cpu.features === null ? "unknown instruction sets" : cpu.features.join(" ") || "no vector extensions of note";
  add(
    "CPU",
    "ok",
    `${cpu.model ?? machine.platform}, ${cpu.cores} cores${cpu.quota ? ` (limited to ${cpu.quota})` : ""}: ${features}`,
  );
  const bf16 = cpu.features?.some((name) => ["avx512_bf16", "amx_bf16", "bf16"].includes(name)) ?? false;
  add(
    "bf16 on the CPU",
    "ok",
    bf16 ? "fast: matrix products in bfloat16 pay" : "no instructions for it: float32 is faster",
  );
  const variables = ["OMP_NUM_THREADS", "MKL_NUM_THREADS"]
    .filter((name) => env[name])
    .map((name) => `${name}=${env[name]}`);
  const threads = addon.threads === null ? "unknown until the addon loads" : `${addon.threads} in libtorch's pool`;
  add("threads", "ok", [threads, ...variables].join(", "));
  const little = memory.available < 2 * 2 ** 30;
  add(
    "memory",
    little ? "warning" : "ok",
    `${gigabytes(memory.available)} free of ${gigabytes(memory.total)}`,
    little ? "close something: compiling takes about 2 GiB a job (DIFFCODER_JOBS=1 runs one)" : null,
  );
  if (machine.diskFree !== null) {
    const short = machine.diskFree < 2 * 2 ** 30;
    add("disk", short ? "warning" : "ok", `${gigabytes(machine.diskFree)} free`, short ? "free at least 2 GiB" : null);
  }
  const shown = terminal.isTerminal
    ? `${terminal.columns} columns, ${terminal.colors} colours`
    : "none: plain lines are printed";
  add("terminal", "ok", shown);

  return {
    canRun: checks.every(({ status }) => status !== "missing"),
    checks,
    libtorchTried: describeAttempts(tried),
    facts: {
      node: process.versions.node,
      compiler: compiler ?? null,
      cmake: cmake?.version ?? null,
      buildTool,
      python,
      libtorch,
      addon: { built: isBuilt, stale, ...addon, stamp: readStamp(paths.addonStamp) },
      cuda: { toolkit, gpus, nccl },
      machine,
      omp: env.OMP_NUM_THREADS ?? null,
    },
  };
}

/**
 * The report for people.
 * @param {DoctorReport} report
 * @param {{ color?: boolean }} [options]
 */
export function formatReport(report, { color = false } = {}) {
  const paint = (code, text) => (color ? `\x1b[${code}m${text}\x1b[0m` : text);
  const marks = { ok: paint(32, "✔"), warning: paint(33, "!"), missing: paint(31, "✖") };
  const width = Math.max(...report.checks.map(({ name }) => name.length));
  const lines = [];
  for (const { name, status, found, mend } of report.checks) {
    lines.push(`${marks[status]} ${name.padEnd(width)}  ${found}`);
    if (mend !== null) lines.push(`  ${" ".repeat(width)}  → ${mend}`);
    if (name === "libtorch") {
      for (const line of report.libtorchTried) lines.push(paint(2, `  ${" ".repeat(width)}    ${line}`));
    }
  }
  const missing = report.checks.filter(({ status }) => status === "missing").length;
  lines.push(
    "",
    report.canRun
      ? "diffcoder can run here."
      : `diffcoder cannot run here: ${missing} thing${missing === 1 ? " is" : "s are"} missing.`,
  );
  return lines.join("\n");
}
