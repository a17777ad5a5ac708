// The CUDA toolkit and the GPU architectures to compile for.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, realpathSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { SetupProblem } from "./problem.mjs";

/** GPU architectures that are compiled for when neither TORCH_CUDA_ARCH_LIST nor a GPU says which. */
const defaultArchitectures = "8.0;8.6;8.9;9.0+PTX";

/** Folders of NVIDIA's wheels beside a pip-installed torch: CUDA's headers and libraries. */
export function nvidiaFolders(libtorchRoot) {
  const folder = join(dirname(libtorchRoot), "nvidia");
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(folder, entry.name))
    .sort();
}

/**
 * The CUDA toolkit: CUDA_HOME or CUDA_PATH, else the one whose nvcc is on PATH, else /usr/local/cuda, else an nvcc wheel beside torch.
 * @param {NodeJS.ProcessEnv} [env]
 * @param {string} [libtorchRoot]
 * @returns {string | null} a folder with bin/nvcc
 */
export function cudaToolkit(env = process.env, libtorchRoot) {
  const onPath = (env.PATH ?? "").split(delimiter).filter((folder) => folder && existsSync(join(folder, "nvcc")));
  // nvcc may be a link from somewhere else, such as /usr/local/bin: its headers say where the toolkit really is.
  const isToolkit = (home) =>
    existsSync(join(home, "bin", "nvcc")) && existsSync(join(home, "include", "cuda_runtime.h"));
  const homes = [
    env.CUDA_HOME,
    env.CUDA_PATH,
    ...onPath.map((folder) => dirname(dirname(realpathSync(join(folder, "nvcc"))))),
    "/usr/local/cuda",
    ...(libtorchRoot ? nvidiaFolders(libtorchRoot) : []),
  ];
  return homes.find((home) => home && isToolkit(home)) ?? null;
}

/** Version of a toolkit's nvcc, such as "13.0", or null. */
export function nvccVersion(toolkit) {
  const run = spawnSync(join(toolkit, "bin", "nvcc"), ["--version"], { encoding: "utf8" });
  return run.status === 0 ? (/release (\d+\.\d+)/.exec(run.stdout)?.[1] ?? null) : null;
}

/** What nvidia-smi says of the GPUs of this machine; empty where there is no driver. */
export function presentGpus(env = process.env) {
  const fields = ["index", "name", "compute_cap", "memory.total", "driver_version"];
  const run = spawnSync("nvidia-smi", [`--query-gpu=${fields.join(",")}`, "--format=csv,noheader,nounits"], {
    env,
    encoding: "utf8",
    timeout: 30_000,
  });
  if (run.error || run.status !== 0) return [];
  return run.stdout
    .split("\n")
    .map((line) => line.split(",").map((field) => field.trim()))
    .filter((parts) => parts.length === fields.length)
    .map(([index, name, capability, memory, driver]) => ({
      index: Number(index),
      name,
      capability,
      memoryBytes: Number(memory) * 2 ** 20,
      driver,
    }));
}

/**
 * Translates PyTorch's TORCH_CUDA_ARCH_LIST ("8.0;9.0a;9.0+PTX") to CMake's CUDA_ARCHITECTURES ("80-real", "90a-real", "90").
 * Without the variable: the GPUs of this machine, else those that most people have.
 * @param {NodeJS.ProcessEnv} [env]
 */
export function cudaArchitectures(env = process.env) {
  const present = () =>
    [...new Set(presentGpus(env).map(({ capability }) => capability))]
      .filter((item) => /^\d+\.\d+$/.test(item))
      .join(";");
  const list = env.TORCH_CUDA_ARCH_LIST || present() || defaultArchitectures;
  return list
    .split(/[;,\s]+/)
    .filter(Boolean)
    .map((item) => {
      const match = /^(\d+)\.(\d+)([af]?)(\+PTX)?$/.exec(item);
      if (!match) {
        throw new SetupProblem(
          "BAD_ARCH_LIST",
          `TORCH_CUDA_ARCH_LIST: "${item}" is not of the form 9.0, 9.0a or 9.0+PTX.`,
          ['for example: TORCH_CUDA_ARCH_LIST="8.0;9.0a" npm run setup'],
        );
      }
      const [, major, minor, suffix, ptx] = match;
      return `${major}${minor}${suffix}${ptx ? "" : "-real"}`;
    });
}

/**
 * Throws unless .cu files can be compiled for this libtorch. Without such files no nvcc is needed.
 * @param {import("./libtorch.mjs").Libtorch} libtorch
 * @param {NodeJS.ProcessEnv} [env]
 */
export function requireCudaTools(libtorch, env = process.env) {
  const wanted = libtorch.cudaVersion;
  const ways = [
    `install the CUDA toolkit ${wanted ?? ""} and set CUDA_HOME to it`.replace("  ", " "),
    `or beside this torch: python3 -m pip install "cuda-toolkit[nvcc]==${wanted ?? "13.0"}.*"`,
    "or use a CPU build: LIBTORCH=/path/to/one npm run setup",
  ];
  const toolkit = cudaToolkit(env, libtorch.root);
  if (!toolkit) {
    throw new SetupProblem(
      "NO_NVCC",
      `libtorch ${libtorch.version} is a CUDA build, and there is no nvcc to compile the kernels.`,
      ways,
    );
  }
  const version = nvccVersion(toolkit);
  if (!version) throw new SetupProblem("NO_NVCC", `${join(toolkit, "bin", "nvcc")} does not run.`, ways);
  // Within one major version CUDA's libraries are compatible; across them the runtime is another library.
  if (wanted && version.split(".")[0] !== wanted.split(".")[0]) {
    throw new SetupProblem(
      "WRONG_NVCC",
      `libtorch is built for CUDA ${wanted}, but ${toolkit} is CUDA ${version}.`,
      ways,
    );
  }
  cudaArchitectures(env);
}
