// What the addon says of itself and its machine, asked in a child process: a library that does not load can end the process that tries.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { pathsOf, projectRoot } from "./paths.mjs";

/**
 * @typedef {object} AddonFacts
 * @property {boolean} loads
 * @property {string | null} error why it does not load
 * @property {string | null} torch version it was compiled against
 * @property {boolean} cudaBuild compiled against a CUDA libtorch
 * @property {number} cudaDevices devices it sees
 * @property {number | null} threads of libtorch's pool
 * @property {string | null} cpuCapability instruction set that libtorch's own kernels use, such as "AVX512"
 */

const script = `
const addon = require(process.argv[1]); // throws if a library is missing
const tell = (name) => { try { return addon[name]?.(); } catch { return undefined; } };
const facts = { build: tell("build"), devices: tell("cudaDeviceCount"), threads: tell("getNumThreads") };
require("node:fs").writeSync(3, JSON.stringify(facts));
`;

/**
 * Loads the addon in a child process and asks it.
 * @param {{ root?: string, env?: NodeJS.ProcessEnv }} [options]
 * @returns {AddonFacts}
 */
export function addonFacts({ root = projectRoot, env = process.env } = {}) {
  const failed = (error) => ({
    ...{ loads: false, error, torch: null, cudaBuild: false, cudaDevices: 0, threads: null, cpuCapability: null },
  });
  const addon = env.DIFFCODER_ADDON ?? pathsOf(root).addon;
  if (!existsSync(addon)) return failed("it is not built");
  // The answer comes on descriptor 3: libraries may print to the usual ones.
  const run = spawnSync(process.execPath, ["-e", script, addon], {
    env,
    encoding: "utf8",
    timeout: 120_000,
    stdio: ["ignore", "pipe", "pipe", "pipe"],
  });
  const answer = run.output?.[3];
  if (run.signal) return failed(`loading it ended the process with ${run.signal}`);
  if (run.status !== 0 || !answer) {
    const line = run.stderr.split("\n").find((text) => /^\w*Error: /.test(text));
    return failed(line ?? run.error?.message ?? (run.stderr.trim().split("\n").at(-1) || "it does not load"));
  }
  const { build, devices, threads } = JSON.parse(answer);
  return {
    loads: true,
    error: null,
    torch: build?.torch ?? null,
    cudaBuild: build?.cuda === true,
    cudaDevices: devices ?? 0,
    threads: threads ?? null,
    cpuCapability: build?.cpuCapability ?? null,
  };
}
