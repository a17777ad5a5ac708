// Fetches libtorch's CPU build with pip into the project's cache, whole or not at all.
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cacheDefect, cacheFolders, completeMarker, fetchedVersion, inspectLibtorch } from "./libtorch.mjs";
import { pathsOf, projectRoot } from "./paths.mjs";
import { SetupProblem } from "./problem.mjs";
import { runLogged } from "./run.mjs";
import { requirePip } from "./toolchain.mjs";

/** PyTorch's own index of CPU wheels: used when pip, as it is set up, does not know the CPU build. */
const cpuIndex = "https://download.pytorch.org/whl/cpu";

/** Python versions that the wheel exists for; another Python asks for the wheel of `standInPython`. */
const wheelPythons = { first: 10, last: 14 };
const standInPython = "3.12";

/** What pip is asked for: "+cpu" because the plain wheel on Linux is a CUDA build of several gigabytes. */
export function requirement(platform = process.platform) {
  return platform === "darwin" ? `torch==${fetchedVersion}` : `torch==${fetchedVersion}+cpu`;
}

/** Ways out for a machine that cannot fetch, most likely first. */
export function fetchRemedies(python = "python3") {
  const wanted = requirement();
  return [
    `fetch the wheel where there is a network: ${python} -m pip download --no-deps -d wheels ${wanted} --index-url ${cpuIndex}`,
    "then, on this machine: PIP_NO_INDEX=1 PIP_FIND_LINKS=/path/to/wheels npm run setup",
    `or install it into the active Python: ${python} -m pip install ${wanted} --index-url ${cpuIndex}`,
    "or set LIBTORCH to a folder that holds libtorch's lib/ and include/",
  ];
}

/** Unpacks only what a C++ program needs: not the Python modules, not libtorch_python, not the test libraries. */
const unpackScript = `
import sys, zipfile
wheel, out = sys.argv[1:]
kept = ("torch/lib/", "torch/include/", "torch/share/", "torchgen/packaged/")
dropped = ("torch_python", "backend_with_compiler", "jitbackend_test", "torchbind_test", "aoti_custom_ops", "libshm")
with zipfile.ZipFile(wheel) as archive:
    names = [n for n in archive.namelist() if n == "torch/version.py" or ".dist-info/" in n
             or n.startswith(kept) and not (n.startswith("torch/lib/") and any(d in n for d in dropped))]
    for i, name in enumerate(names):
        archive.extract(name, out)
        if i % 500 == 0: print(f"unpacked {i} of {len(names)} files", flush=True)
`;

function bytesBelow(folder) {
  let bytes = 0;
  try {
    for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
      if (entry.isFile())
        bytes += statSync(join(entry.parentPath ?? entry.path, entry.name), { throwIfNoEntry: false })?.size ?? 0;
    }
  } catch {
    // a folder that pip is just removing
  }
  return bytes;
}

function megabytes(bytes) {
  return (bytes / 1e6).toFixed(0);
}

/** pip's arguments; a Python that has no wheel of its own takes another's: only the libraries in it are used. */
export function pipArguments(python, destination, index) {
  const [major, minor] = python.version.split(".").map(Number);
  const args = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--dest", destination];
  if (index) args.push("--index-url", index);
  if (major !== 3 || minor < wheelPythons.first || minor > wheelPythons.last) {
    args.push(
      "--implementation",
      "cp",
      "--python-version",
      standInPython,
      "--abi",
      `cp${standInPython.replace(".", "")}`,
    );
  }
  args.push(requirement());
  return args;
}

function explain(error, python) {
  const text = (error.lines ?? []).join("\n");
  const last = (error.lines ?? []).filter((line) => line.trim()).slice(-6);
  if (/No space left on device|ENOSPC|Errno 28/.test(`${text}${error.message}`)) {
    return new SetupProblem("DISK_FULL", "The disk is full; libtorch needs about 1.2 GB while it is fetched.", [
      "free some space and run it again: nothing half fetched is left behind",
    ]);
  }
  const reason = last.length > 0 ? `pip said:\n    ${last.join("\n    ")}` : error.message;
  return new SetupProblem(
    "FETCH_FAILED",
    `libtorch ${fetchedVersion} could not be fetched. ${reason}`,
    fetchRemedies(python.path),
  );
}

/**
 * Fetches libtorch into the cache and returns it. The folder appears under its final name only when it is whole.
 * The caller holds the set-up lock.
 * @param {{ root?: string, env?: NodeJS.ProcessEnv, report?: (detail: string) => void }} [options]
 * @returns {Promise<import("./libtorch.mjs").Libtorch>}
 */
export async function fetchLibtorch({ root = projectRoot, env = process.env, report = () => {} } = {}) {
  const python = requirePip(env);
  const { libtorchCache, logs } = pathsOf(root);
  const staging = join(libtorchCache, `.fetch-${process.pid}`);
  mkdirSync(libtorchCache, { recursive: true });
  // Left by a fetch that was killed; nobody else fetches while we hold the lock.
  for (const name of readdirSync(libtorchCache)) {
    if (name.startsWith(".fetch-")) rmSync(join(libtorchCache, name), { recursive: true, force: true });
  }
  for (const folder of cacheFolders(root)) {
    if (cacheDefect(folder)) rmSync(folder, { recursive: true, force: true });
  }

  const wheels = join(staging, "wheels");
  const temporary = join(staging, "tmp");
  const out = join(staging, "out");
  for (const folder of [wheels, temporary, out]) mkdirSync(folder, { recursive: true });

  let total = "";
  const timer = setInterval(() => report(`${megabytes(bytesBelow(staging))}${total} MB`), 1000);
  try {
    // pip's own progress bar is gone without a terminal: the growth of its files is what we show. TMPDIR brings them here.
    const options = {
      log: join(logs, "libtorch.log"),
      env: { ...env, TMPDIR: temporary, PIP_DISABLE_PIP_VERSION_CHECK: "1" },
      onLine: (line) => {
        const size = /\(([\d.]+) MB\)/.exec(line)?.[1];
        if (size) total = ` of ${Math.round(Number(size))}`;
      },
    };
    try {
      await runLogged(python.path, pipArguments(python, wheels, null), options);
    } catch (error) {
      const unknown = error.lines?.some((line) => /No matching distribution|Could not find a version/.test(line));
      const index = env.DIFFCODER_TORCH_INDEX ?? (env.PIP_NO_INDEX ? "" : cpuIndex);
      if (!unknown || !index) throw error;
      report("asking PyTorch's own index");
      await runLogged(python.path, pipArguments(python, wheels, index), options);
    }
    clearInterval(timer);

    const wheel = readdirSync(wheels).find((name) => name.endsWith(".whl"));
    if (!wheel) throw new SetupProblem("FETCH_FAILED", "pip fetched no wheel.", fetchRemedies(python.path));
    report("unpacking");
    await runLogged(python.path, ["-c", unpackScript, join(wheels, wheel), out], {
      log: join(logs, "libtorch-unpack.log"),
      env,
      onLine: report,
    });
    const { libtorch, refused } = inspectLibtorch(join(out, "torch"), { source: "cache" });
    if (!libtorch)
      throw new SetupProblem(
        "FETCH_FAILED",
        `The fetched wheel cannot be used: ${refused}.`,
        fetchRemedies(python.path),
      );

    const libraries = {};
    for (const name of readdirSync(join(out, "torch", "lib"))) {
      const { size } = statSync(join(out, "torch", "lib", name));
      if (statSync(join(out, "torch", "lib", name)).isFile()) libraries[name] = size;
    }
    writeFileSync(
      join(out, completeMarker),
      `${JSON.stringify({ version: libtorch.version, wheel, libraries }, null, 2)}\n`,
    );
    const folder = join(libtorchCache, libtorch.version);
    if (existsSync(folder)) rmSync(folder, { recursive: true, force: true });
    renameSync(out, folder);
    return { ...libtorch, root: join(folder, "torch") };
  } catch (error) {
    throw error instanceof SetupProblem ? error : explain(error, python);
  } finally {
    clearInterval(timer);
    rmSync(staging, { recursive: true, force: true });
  }
}
