import { spawnSync } from "node:child_process";
import { createServer } from "node:net";
import { availableParallelism } from "node:os";
import { DistributedError } from "../../distributed/errors.js";
import { DEFAULT_MASTER_PORT, readLaunchEnvironment } from "../../distributed/launch-environment.js";
import type { LaunchOptions } from "../command-options.js";
import { CliError } from "../errors.js";

/** The number of processes, those that this launcher starts, and the rendezvous address. */
export interface Topology {
  nproc: number;
  nnodes: number;
  nodeRank: number;
  masterAddr: string;
  /** undefined: a free port, which is chosen at each start */
  masterPort: number | undefined;
}

/**
 * Combines options, torchrun's PET_ variables and defaults.
 *
 * @throws CliError for missing or contradictory options
 */
export function readTopology(options: LaunchOptions, env: NodeJS.ProcessEnv): Topology {
  const nnodes = options.nnodes ?? petNodes(env) ?? 1;
  if (options.nnodes === undefined && env.PET_NNODES === undefined) refuseInnerLauncher(env);
  const nproc = processCount(options.nproc ?? petCount(env) ?? "1", env);
  const masterPort = options.masterPort ?? petInteger(env, "PET_MASTER_PORT", 1, 65_535);
  const given = options.masterAddr ?? (env.PET_MASTER_ADDR || undefined);
  if (nnodes === 1) {
    return { nproc, nnodes, nodeRank: 0, masterAddr: given ?? "127.0.0.1", masterPort };
  }
  const nodeRank = options.nodeRank ?? petInteger(env, "PET_NODE_RANK", 0);
  if (nodeRank === undefined) throw new CliError(`${nnodes} machines: set --node-rank to the rank of this one`);
  if (nodeRank >= nnodes)
    throw new CliError(`--node-rank ${nodeRank}: expected 0 to ${nnodes - 1} for ${nnodes} machines`);
  if (given === undefined)
    throw new CliError(`${nnodes} machines: set --master-addr to the address of the one with rank 0`);
  return { nproc, nnodes, nodeRank, masterAddr: given, masterPort: masterPort ?? DEFAULT_MASTER_PORT };
}

/**
 * Rejects a launcher inside each task of `srun` or torchrun, which would train that many separate models. --nnodes
 * confirms that it is intended.
 */
function refuseInnerLauncher(env: NodeJS.ProcessEnv): void {
  let outer: ReturnType<typeof readLaunchEnvironment>;
  try {
    outer = readLaunchEnvironment(env);
  } catch (error) {
    if (error instanceof DistributedError) return; // the ranks get their own variables
    throw error;
  }
  if (outer === undefined || outer.worldSize === 1) return;
  const { launcher, rank, worldSize } = outer;
  const by = { slurm: "srun", kubernetes: "the Job", env: "RANK and WORLD_SIZE" }[launcher as string] ?? launcher;
  throw new CliError(
    `this is already one of ${worldSize} processes (rank ${rank}, by ${by}): start the program without \`diffcoder launch\`, ` +
      "or give --nnodes and --node-rank for a launcher on each machine (--nnodes 1: independent runs)",
  );
}

function petNodes(env: NodeJS.ProcessEnv): number | undefined {
  const [least, most = least, ...rest] = (env.PET_NNODES || "").split(":");
  if (least === "") return undefined;
  if (least === most && rest.length === 0) return petInteger({ PET_NNODES: least }, "PET_NNODES", 1);
  throw new CliError(`PET_NNODES=${env.PET_NNODES}: a variable number of machines is not supported`);
}

function petCount(env: NodeJS.ProcessEnv): string | undefined {
  const text = env.PET_NPROC_PER_NODE || undefined;
  if (text === undefined || /^(auto|gpu|cpu)$/.test(text)) return text;
  return String(petInteger(env, "PET_NPROC_PER_NODE", 1, 999_999));
}

function petInteger(env: NodeJS.ProcessEnv, name: string, least: number, most = 1e9): number | undefined {
  const text = env[name] || undefined;
  if (text === undefined) return undefined;
  const value = /^\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= least && value <= most) return value;
  throw new CliError(`${name}=${text}: expected an integer from ${least}${most < 1e9 ? ` to ${most}` : ""}`);
}

function processCount(wanted: string, env: NodeJS.ProcessEnv): number {
  if (wanted !== "auto" && wanted !== "gpu" && wanted !== "cpu") return Number(wanted);
  const gpus = wanted === "cpu" ? 0 : gpuCount(env);
  if (wanted === "gpu" && gpus === 0)
    throw new CliError("--nproc gpu: no GPU found in CUDA_VISIBLE_DEVICES or with nvidia-smi");
  return gpus || availableParallelism();
}

/**
 * Number of CUDA devices that a process would see, determined without CUDA, so that the launcher does not use any of
 * them.
 */
function gpuCount(env: NodeJS.ProcessEnv): number {
  const visible = env.CUDA_VISIBLE_DEVICES;
  if (visible !== undefined) {
    const names = visible.split(",").map((name) => name.trim());
    const end = names.findIndex((name) => name === "" || name.startsWith("-")); // CUDA ignores the rest
    return end < 0 ? names.length : end;
  }
  const listed = spawnSync("nvidia-smi", ["-L"], { encoding: "utf8", env, timeout: 20_000 });
  return listed.status === 0 ? (listed.stdout.match(/^GPU \d+:/gm)?.length ?? 0) : 0;
}

/** A TCP port that is currently free. */
export function freePort(host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.on("error", reject);
    server.listen(0, host, () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

/** A job: equal for all of its processes, also after a restart. */
export interface Job {
  runId: string;
  maxRestarts: number;
  topology: Topology;
}

/** Global rank of the process with `localRank` on this machine. */
export function globalRank({ nodeRank, nproc }: Topology, localRank: number): number {
  return nodeRank * nproc + localRank;
}

/**
 * The environment variables of one process, with torchrun's names and meanings (PyTorch's `env://`).
 *
 * @param restartCount number of earlier starts
 */
export function rankEnvironment(job: Job, localRank: number, port: number, restartCount: number) {
  const { topology, runId, maxRestarts } = job;
  const { nproc, nnodes, nodeRank, masterAddr } = topology;
  return {
    RANK: String(globalRank(topology, localRank)),
    WORLD_SIZE: String(nnodes * nproc),
    LOCAL_RANK: String(localRank),
    LOCAL_WORLD_SIZE: String(nproc),
    GROUP_RANK: String(nodeRank),
    GROUP_WORLD_SIZE: String(nnodes),
    MASTER_ADDR: masterAddr,
    MASTER_PORT: String(port),
    TORCHELASTIC_RESTART_COUNT: String(restartCount),
    TORCHELASTIC_MAX_RESTARTS: String(maxRestarts),
    TORCHELASTIC_RUN_ID: runId,
    TORCHELASTIC_USE_AGENT_STORE: "False", // rank 0 opens the store; an outer torchrun may have set another value
    DIFFCODER_LAUNCHER: "diffcoder",
  };
}

/** Threads per process, so that the processes share the cores without oversubscription. */
export function threadsPerRank({ nproc }: Topology): number {
  return Math.max(1, Math.floor(availableParallelism() / nproc));
}
