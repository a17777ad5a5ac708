import { fromSlurm, type SlurmStep, slurmStep } from "./launch-environment/slurm.js";
import {
  type LaunchEnvironment,
  type LaunchInfo,
  Variables,
  wrongEnvironment,
} from "./launch-environment/variables.js";

/** torchrun's default port. */
export const DEFAULT_MASTER_PORT = 29500;

/**
 * Reads the variables that a launcher set, in this order: torchrun's variables, which `diffcoder launch` sets, too
 * (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT, TORCHELASTIC_*); those of a SLURM step
 * (`srun`); those of a Kubernetes indexed Job (JOB_COMPLETION_INDEX, with WORLD_SIZE and MASTER_ADDR). An empty
 * variable counts as unset.
 *
 * @returns undefined in a process that no launcher started
 * @throws DistributedError DISTRIBUTED_ENVIRONMENTfor variables that are incomplete, malformed or contradictory
 */
export function readLaunchEnvironment(env: NodeJS.ProcessEnv = process.env): LaunchEnvironment | undefined {
  const variables = new Variables(env);
  const step = slurmStep(variables);
  if (variables.has("RANK")) return checked(fromTorchrun(variables, step), variables);
  if (step) return checked(fromSlurm(variables, step), variables);
  if (variables.has("JOB_COMPLETION_INDEX") && (variables.has("WORLD_SIZE") || variables.has("MASTER_ADDR"))) {
    return checked(fromKubernetes(variables), variables);
  }
  // Without this error every process would train the same model separately.
  for (const name of ["WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"]) {
    if (variables.has(name)) throw wrongEnvironment(`${variables.shown(name)}, but RANK is not set`);
  }
  for (const name of ["PET_NNODES", "PET_NPROC_PER_NODE"]) {
    if (!(Number(variables.text(name) ?? 1) > 1)) continue;
    const remedy = "start the program with `diffcoder launch` or torchrun, which read PET_*, or unset them";
    throw wrongEnvironment(`${variables.shown(name)}, but RANK is not set: ${remedy}`);
  }
  return undefined;
}

function fromTorchrun(variables: Variables, step: SlurmStep | undefined): LaunchInfo {
  const launcher = variables.has("DIFFCODER_LAUNCHER")
    ? "diffcoder"
    : variables.has("TORCHELASTIC_RUN_ID")
      ? "torchrun"
      : "env";
  const rank = variables.integer("RANK");
  const worldSize = variables.integer("WORLD_SIZE", { because: "RANK" });
  // `export RANK=$SLURM_PROCID` in a batch script makes every task rank 0.
  const isStep = step && launcher === "env" && step.numTasks === worldSize;
  if (isStep && step.task !== rank) throw variables.contradiction("RANK", "SLURM_PROCID");
  const masterAddr = variables.host("MASTER_ADDR", { because: "RANK" });
  const masterPort = variables.port("MASTER_PORT", { because: "RANK" });
  const place = { rank, worldSize, masterAddr, masterPort, launcher } as const;

  const localRank = variables.integer("LOCAL_RANK", { fallback: -1 });
  const localWorldSize = variables.integer("LOCAL_WORLD_SIZE", { fallback: 0 });
  if (localRank >= 0 && localWorldSize > 0) return { ...place, localRank, localWorldSize };
  // Usually set by hand. Missing variables are derived if all processes are on one machine or SLURM started them.
  if (isStep) {
    const local = localWorldSize || step.localTasks;
    return { ...place, localRank: localRank < 0 ? step.localTask : localRank, localWorldSize: local };
  }
  if (worldSize === 1 || isLoopback(masterAddr)) {
    return { ...place, localRank: localRank < 0 ? rank : localRank, localWorldSize: localWorldSize || worldSize };
  }
  if (localRank < 0 && localWorldSize <= 1) return { ...place, localRank: 0, localWorldSize: 1 };
  const [there, missing] = localRank < 0 ? ["LOCAL_WORLD_SIZE", "LOCAL_RANK"] : ["LOCAL_RANK", "LOCAL_WORLD_SIZE"];
  throw wrongEnvironment(`${variables.shown(there)}, but ${missing} is not set`);
}

/** One process per pod: a Job with several processes per pod must use `diffcoder launch`. */
function fromKubernetes(variables: Variables): LaunchInfo {
  return {
    rank: variables.integer("JOB_COMPLETION_INDEX"),
    worldSize: variables.integer("WORLD_SIZE", { because: "MASTER_ADDR" }),
    localRank: variables.integer("LOCAL_RANK", { fallback: 0 }),
    localWorldSize: variables.integer("LOCAL_WORLD_SIZE", { fallback: 1 }),
    masterAddr: variables.host("MASTER_ADDR", { because: "WORLD_SIZE" }),
    masterPort: variables.has("MASTER_PORT") ? variables.port("MASTER_PORT") : DEFAULT_MASTER_PORT,
    launcher: "kubernetes",
  };
}

/** Adds the variables that all launchers share, and rejects impossible values. */
function checked({ restarts = 0, ...facts }: LaunchInfo, variables: Variables): LaunchEnvironment {
  const { rank, worldSize, localRank, localWorldSize } = facts;
  const said = `rank ${rank} of ${worldSize}, local rank ${localRank} of ${localWorldSize}`;
  const named = `(${variables.asked().join(", ")})`;
  if (worldSize < 1 || localWorldSize < 1)
    throw wrongEnvironment(`the number of processes must be at least 1: ${said} ${named}`);
  if (rank >= worldSize) throw wrongEnvironment(`the highest rank is ${worldSize - 1}: ${said} ${named}`);
  if (localRank >= localWorldSize)
    throw wrongEnvironment(`the highest local rank is ${localWorldSize - 1}: ${said} ${named}`);
  if (localWorldSize > worldSize) throw wrongEnvironment(`the local world is larger than the world: ${said} ${named}`);
  return {
    ...facts,
    restartCount: variables.integer("TORCHELASTIC_RESTART_COUNT", { fallback: restarts }),
    maxRestarts: variables.integer("TORCHELASTIC_MAX_RESTARTS", { fallback: 0 }),
    storeIsHosted: variables.text("TORCHELASTIC_USE_AGENT_STORE") === "True", // the comparison that PyTorch makes
  };
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127\.\d+\.\d+\.\d+$/.test(host);
}
