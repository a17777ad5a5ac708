// Scratch checkouts, fake libtorch folders and fake wheels: set-up's real scripts run on them.
import { spawn, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { onTestFinished, vi } from "vitest";
import { libraryFile } from "../../scripts/lib/libtorch.mjs";
import { projectRoot } from "../../scripts/lib/paths.mjs";

// These tests run compilers, pip and vitest itself: on a busy machine that takes its time.
vi.setConfig({ testTimeout: 240_000 });

/** A folder that is removed when the test has finished. */
export function scratchFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "diffcoder-setup-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }));
  return folder;
}

/** Writes a file and the folders above it. */
export function put(path: string, text = ""): string {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
  return path;
}

export interface FakeLibtorch {
  version?: string | null;
  cuda?: boolean;
  without?: string[];
}

/** Makes a folder that looks like libtorch as far as discovery looks; `without` names files to leave out. */
export function fakeLibtorch(
  folder: string,
  { version = "2.13.0+cpu", cuda = false, without = [] }: FakeLibtorch = {},
) {
  const libraries = ["c10", "torch_cpu", "torch", ...(cuda ? ["c10_cuda", "torch_cuda"] : [])];
  const files = [
    ...libraries.map((name) => `lib/${libraryFile(name)}`),
    ...["ATen/ATen.h", "c10/core/TensorImpl.h", "torch/library.h"].map((name) => `include/${name}`),
  ];
  for (const file of files) {
    if (!without.includes(file)) put(join(folder, file), `fake ${file}`);
  }
  const cudaVersion = cuda ? `'13.0'` : "None";
  if (version !== null) {
    put(join(folder, "version.py"), `__version__ = '${version}'\ncuda: Optional[str] = ${cudaVersion}\n`);
  }
  return folder;
}

/** Environment without what would lead discovery elsewhere on the machine that runs the tests. */
export function cleanEnvironment(extra: Record<string, string | undefined> = {}): NodeJS.ProcessEnv {
  const env: NodeJS.ProcessEnv = { ...process.env };
  const names = [
    "LIBTORCH",
    "PYTHONPATH",
    "PYTHON",
    "CXX",
    "DIFFCODER_ADDON",
    "DIFFCODER_LIBTORCH",
    "DIFFCODER_ANY_LIBTORCH",
  ];
  for (const name of [...names, "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "NODE_OPTIONS", "VITEST"])
    delete env[name];
  env.DIFFCODER_ADDON_CACHE = "off";
  for (const [name, value] of Object.entries(extra)) {
    if (value === undefined) delete env[name];
    else env[name] = value;
  }
  return env;
}

/** Scripts that import lib/, which a scratch checkout does not have. */
const NEED_LIB = /scripts\/(docs-tables|lib\/documented-schemas|lib\/option-tables)\.ts$/;

/**
 * A checkout with this project's scripts and settings, its npm packages, and nothing in native/, lib/ and test/ but what the test puts there.
 */
export function scratchCheckout(folder = scratchFolder()): string {
  const copied = ["scripts", "bin", "package.json", "package-lock.json", "tsconfig.json", "tsconfig.build.json"];
  for (const name of [
    ...copied,
    "tsconfig.scripts.json",
    "vitest.config.ts",
    "biome.json",
    "biome.layers.json",
    "CMakeLists.txt",
    ".clang-format",
    ".ci",
    join("playground", "tsconfig.json"),
  ]) {
    cpSync(join(projectRoot, name), join(folder, name), { recursive: true, filter: (path) => !NEED_LIB.test(path) });
  }
  symlinkSync(join(projectRoot, "node_modules"), join(folder, "node_modules"));
  put(join(folder, "native", "addon.cc"), "int answer() { return 42; }\n");
  put(join(folder, "lib", "cli", "main.ts"), "export {};\n");
  put(join(folder, "playground", "src", "main.ts"), "export {};\n");
  return folder;
}

/** Runs a script of a checkout and gives what it printed. */
export function runScript(
  root: string,
  script: string,
  args: string[] = [],
  env: NodeJS.ProcessEnv = cleanEnvironment(),
) {
  const run = spawnSync(process.execPath, [join(root, script), ...args], { cwd: root, env, encoding: "utf8" });
  return { status: run.status, out: run.stdout, err: run.stderr, all: `${run.stdout}${run.stderr}` };
}

/** Starts a script without waiting for it. */
export function startScript(
  root: string,
  script: string,
  args: string[] = [],
  env: NodeJS.ProcessEnv = cleanEnvironment(),
) {
  const child = spawn(process.execPath, [join(root, script), ...args], {
    cwd: root,
    env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  let all = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    all += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    all += text;
  });
  const ended = new Promise<{ status: number | null; all: string }>((resolve) => {
    child.on("close", (status) => resolve({ status, all }));
  });
  return { child, ended, printed: () => all };
}

/**
 * Makes the checkout look set up: libtorch is a fake one, the addon a file with a stamp that says it was built from it.
 * @returns the environment under which nothing is stale but dist/
 */
export function pretendBuilt(root: string): NodeJS.ProcessEnv {
  const env = cleanEnvironment({ LIBTORCH: fakeLibtorch(join(root, "fake-libtorch")) });
  put(join(root, "build", "Release", "diffcoder.node"), "not a library");
  const { status, all } = runScript(root, "scripts/native-flags.mjs", ["stamp"], env);
  if (status !== 0) throw new Error(all);
  return env;
}

/** A torch wheel that holds a fake libtorch, and pip's settings that make it the only one there is. */
export function fakeWheel(folder: string, { version = "2.13.0+cpu", without = [] }: FakeLibtorch = {}) {
  const content = join(folder, "content");
  fakeLibtorch(join(content, "torch"), { version, without });
  put(join(content, "torch", "nn", "modules", "linear.py"), "# not needed by C++\n");
  put(join(content, "torch", "lib", libraryFile("torch_python")), "needs Python");
  put(join(content, "torchgen", "packaged", "ATen", "native", "native_functions.yaml"), "- func: add\n");
  const info = join(content, `torch-${version}.dist-info`);
  put(join(info, "METADATA"), `Metadata-Version: 2.1\nName: torch\nVersion: ${version}\n`);
  put(join(info, "WHEEL"), "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n");
  put(join(info, "RECORD"), "");
  const wheels = join(folder, "wheels");
  mkdirSync(wheels, { recursive: true });
  const wheel = join(wheels, `torch-${version}-py3-none-any.whl`);
  const script = "import shutil, sys, os\nos.rename(shutil.make_archive(sys.argv[1], 'zip', sys.argv[2]), sys.argv[1])";
  const zip = spawnSync("python3", ["-c", script, wheel, content], { encoding: "utf8" });
  if (zip.status !== 0) throw new Error(zip.stderr);
  const env = cleanEnvironment({
    PIP_NO_INDEX: "1",
    PIP_FIND_LINKS: wheels,
    PIP_CONFIG_FILE: "/dev/null",
    PIP_CONSTRAINT: undefined,
    DIFFCODER_TORCH_INDEX: "",
  });
  return { wheel, env };
}
