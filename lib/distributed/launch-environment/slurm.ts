import { type LaunchInfo, type Variables, wrongEnvironment } from "./variables.js";

// Reads the variables of `srun` and derives the others from them.

/** A SLURM job step, from the environment of one of its tasks. */
export interface SlurmStep {
  task: number;
  numTasks: number;
  numTasksName: string;
  localTask: number;
  localTasks: number;
  /** undefined if unknown */
  numNodes: number | undefined;
}

/**
 * The job step, if `srun` started this process as one of several tasks. A batch script, or a shell of `salloc`, has the
 * job's variables but no step: its programs are single processes.
 */
export function slurmStep(variables: Variables): SlurmStep | undefined {
  if (!variables.has("SLURM_STEP_ID") && !variables.has("SLURM_STEPID")) return undefined;
  // The step's own count takes precedence: the job's may be that of the surrounding allocation.
  const numTasksName = variables.has("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS";
  const numTasks = variables.integer(numTasksName, { fallback: 1 });
  if (numTasks < 2) return undefined;
  const task = variables.integer("SLURM_PROCID", { because: numTasksName });
  const localTask = variables.integer("SLURM_LOCALID", { because: numTasksName });
  const nodesName = variables.has("SLURM_STEP_NUM_NODES") ? "SLURM_STEP_NUM_NODES" : "SLURM_NNODES";
  const numNodes = variables.has(nodesName) ? variables.integer(nodesName) : undefined;
  const perNode = variables.has("SLURM_STEP_TASKS_PER_NODE") ? "SLURM_STEP_TASKS_PER_NODE" : "SLURM_TASKS_PER_NODE";
  const localTasks = tasksHere(variables, perNode) ?? (numNodes === 1 ? numTasks : undefined);
  if (localTasks === undefined) throw wrongEnvironment(`${variables.shown(numTasksName)}, but ${perNode} is not set`);
  return { task, numTasks, numTasksName, localTask, localTasks, numNodes };
}

/** Number of tasks on this node from a list such as "8(x3),4": three nodes with 8 and one with 4. */
function tasksHere(variables: Variables, name: string): number | undefined {
  const text = variables.text(name);
  if (text === undefined) return undefined;
  let nodes = variables.integer("SLURM_NODEID", { because: name });
  for (const part of text.split(",")) {
    const match = /^(\d{1,9})(?:\(x(\d{1,9})\))?$/.exec(part);
    if (!match) throw wrongEnvironment(`${variables.shown(name)} is not a list such as "8(x3),4"`);
    nodes -= Number(match[2] ?? 1);
    if (nodes < 0) return Number(match[1]);
  }
  throw variables.contradiction("SLURM_NODEID", name);
}

/** The host of task 0: the first of the step's nodes. */
function slurmHost(variables: Variables, { numNodes, numTasksName }: SlurmStep): string {
  if (numNodes === 1) return "127.0.0.1";
  for (const name of ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"]) {
    const list = variables.text(name);
    if (list === undefined) continue;
    const host = firstHost(list);
    if (host === undefined)
      throw wrongEnvironment(`${variables.shown(name)} is not a list of hosts such as "gpu[01-04],login"`);
    return host;
  }
  // The host where srun was called: the first node in a batch job, but a login node for an interactive one.
  if (variables.has("SLURM_LAUNCH_NODE_IPADDR")) return variables.host("SLURM_LAUNCH_NODE_IPADDR");
  throw wrongEnvironment(`${variables.shown(numTasksName)}, but SLURM_JOB_NODELIST is not set`);
}

/**
 * The first host of a SLURM node list: gpu003 for "gpu[003-005,9],login".
 *
 * @returns undefined if the list is malformed
 */
export function firstHost(list: string): string | undefined {
  const brackets = String.raw`\[\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*\]`;
  const host = String.raw`(?:[\w.-]|${brackets})+`;
  if (!new RegExp(`^${host}(?:,${host})*$`).test(list)) return undefined;
  const first = /^(?:[^,[]|\[[^\]]*\])*/.exec(list)?.[0] ?? "";
  return first.replace(/\[(\d+)[^\]]*\]/g, "$1");
}

/** A port for each step of each job, below the kernel's range for outgoing connections. */
function slurmPort(variables: Variables): number {
  const job = variables.integer("SLURM_JOB_ID", { because: "SLURM_PROCID" });
  const step = variables.integer(variables.has("SLURM_STEP_ID") ? "SLURM_STEP_ID" : "SLURM_STEPID");
  return 12_000 + ((job * 7 + step) % 16_000);
}

/** Launch information of a process that is one task of a step. */
export function fromSlurm(variables: Variables, step: SlurmStep): LaunchInfo {
  if (variables.integer("WORLD_SIZE", { fallback: step.numTasks }) !== step.numTasks) {
    throw variables.contradiction("WORLD_SIZE", step.numTasksName);
  }
  return {
    rank: step.task,
    worldSize: step.numTasks,
    localRank: step.localTask,
    localWorldSize: step.localTasks,
    masterAddr: variables.has("MASTER_ADDR") ? variables.host("MASTER_ADDR") : slurmHost(variables, step),
    masterPort: variables.has("MASTER_PORT") ? variables.port("MASTER_PORT") : slurmPort(variables),
    restarts: variables.integer("SLURM_RESTART_COUNT", { fallback: 0 }),
    launcher: "slurm",
  };
}
