import { DistributedError } from "./errors.js";

/** What a launcher says of this process: who it is among how many, and where they meet. */
export interface LaunchEnvironment {
  /** Number of this process among all, from 0. */
  rank: number;
  /** How many processes there are. */
  worldSize: number;
  /** Number of this process on its machine, from 0: which device it takes. */
  localRank: number;
  /** How many processes this machine runs. */
  localWorldSize: number;
  /** Host of rank 0, and the port of the store there through which all processes meet. */
  masterAddr: string;
  masterPort: number;
  /** How often the launcher has started this job again, and how often it may. */
  restartCount: number;
  maxRestarts: number;
  launcher: "torchrun" | "slurm" | "kubernetes" | "diffcoder" | "env";
  /** The launcher holds the store itself: rank 0 must not open one there. */
  storeIsHosted: boolean;
}

/** torchrun's port where nothing else is said. */
export const DEFAULT_MASTER_PORT = 29500;

/**
 * Reads what a launcher set. In this order: torchrun's variables, which `diffcoder launch` sets, too (RANK, WORLD_SIZE,
 * LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT, TORCHELASTIC_*); those of a SLURM step (`srun`); those of a
 * Kubernetes indexed Job (JOB_COMPLETION_INDEX, with WORLD_SIZE and MASTER_ADDR). An empty variable counts as none.
 *
 * @returns undefined in a process that nobody launched as one of several
 * @throws DistributedError DISTRIBUTED_ENVIRONMENT: variables that are incomplete, malformed or contradict each other
 */
export function readLaunchEnvironment(env: NodeJS.ProcessEnv = process.env): LaunchEnvironment | undefined {
  const variables = new Variables(env);
  const step = slurmStep(variables);
  if (variables.has("RANK")) return checked(fromTorchrun(variables, step), variables);
  if (step) return checked(fromSlurm(variables, step), variables);
  if (variables.has("JOB_COMPLETION_INDEX") && (variables.has("WORLD_SIZE") || variables.has("MASTER_ADDR"))) {
    return checked(fromKubernetes(variables), variables);
  }
  // Every process for itself would train the same model many times over: better none does.
  for (const name of ["WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"]) {
    if (variables.has(name)) throw wrong(`${variables.shown(name)}, but RANK is not set`);
  }
  for (const name of ["PET_NNODES", "PET_NPROC_PER_NODE"]) {
    if (!(Number(variables.text(name) ?? 1) > 1)) continue;
    const remedy = "start the program with `diffcoder launch` or torchrun, which read PET_*, or unset them";
    throw wrong(`${variables.shown(name)}, but RANK is not set: ${remedy}`);
  }
  return undefined;
}

type Facts = Omit<LaunchEnvironment, "restartCount" | "maxRestarts" | "storeIsHosted"> & { restarts?: number };

function fromTorchrun(variables: Variables, step: SlurmStep | undefined): Facts {
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
  // Set by hand, mostly. What is left out follows where all processes are on one machine, or SLURM started them.
  if (isStep) {
    const local = localWorldSize || step.localTasks;
    return { ...place, localRank: localRank < 0 ? step.localTask : localRank, localWorldSize: local };
  }
  if (worldSize === 1 || isLoopback(masterAddr)) {
    return { ...place, localRank: localRank < 0 ? rank : localRank, localWorldSize: localWorldSize || worldSize };
  }
  if (localRank < 0 && localWorldSize <= 1) return { ...place, localRank: 0, localWorldSize: 1 };
  const [there, missing] = localRank < 0 ? ["LOCAL_WORLD_SIZE", "LOCAL_RANK"] : ["LOCAL_RANK", "LOCAL_WORLD_SIZE"];
  throw wrong(`${variables.shown(there)}, but ${missing} is not set`);
}

function fromSlurm(variables: Variables, step: SlurmStep): Facts {
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

/** One process in each pod: a Job whose pods run several goes through `diffcoder launch`. */
function fromKubernetes(variables: Variables): Facts {
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

/** Adds what all launchers say alike, and refuses what cannot be. */
function checked({ restarts = 0, ...facts }: Facts, variables: Variables): LaunchEnvironment {
  const { rank, worldSize, localRank, localWorldSize } = facts;
  const said = `rank ${rank} of ${worldSize}, local rank ${localRank} of ${localWorldSize}`;
  const named = `(${variables.asked().join(", ")})`;
  if (worldSize < 1 || localWorldSize < 1) throw wrong(`a world of no processes: ${said} ${named}`);
  if (rank >= worldSize) throw wrong(`ranks go up to ${worldSize - 1}: ${said} ${named}`);
  if (localRank >= localWorldSize) throw wrong(`local ranks go up to ${localWorldSize - 1}: ${said} ${named}`);
  if (localWorldSize > worldSize) throw wrong(`more processes here than there are: ${said} ${named}`);
  return {
    ...facts,
    restartCount: variables.integer("TORCHELASTIC_RESTART_COUNT", { fallback: restarts }),
    maxRestarts: variables.integer("TORCHELASTIC_MAX_RESTARTS", { fallback: 0 }),
    storeIsHosted: variables.text("TORCHELASTIC_USE_AGENT_STORE") === "True", // as PyTorch compares it
  };
}

interface SlurmStep {
  task: number;
  numTasks: number;
  numTasksName: string;
  localTask: number;
  localTasks: number;
  /** undefined: not said */
  numNodes: number | undefined;
}

/**
 * What `srun` says, if it started this process as one of several tasks. In a batch script itself, or in the shell that
 * `salloc` gives, the job's variables are there, but there is no step: what runs there runs alone.
 */
function slurmStep(variables: Variables): SlurmStep | undefined {
  if (!variables.has("SLURM_STEP_ID") && !variables.has("SLURM_STEPID")) return undefined;
  // The step's own count comes first: the job's may be of the allocation around it.
  const numTasksName = variables.has("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS";
  const numTasks = variables.integer(numTasksName, { fallback: 1 });
  if (numTasks < 2) return undefined;
  const task = variables.integer("SLURM_PROCID", { because: numTasksName });
  const localTask = variables.integer("SLURM_LOCALID", { because: numTasksName });
  const nodesName = variables.has("SLURM_STEP_NUM_NODES") ? "SLURM_STEP_NUM_NODES" : "SLURM_NNODES";
  const numNodes = variables.has(nodesName) ? variables.integer(nodesName) : undefined;
  const perNode = variables.has("SLURM_STEP_TASKS_PER_NODE") ? "SLURM_STEP_TASKS_PER_NODE" : "SLURM_TASKS_PER_NODE";
  const localTasks = tasksHere(variables, perNode) ?? (numNodes === 1 ? numTasks : undefined);
  if (localTasks === undefined) throw wrong(`${variables.shown(numTasksName)}, but ${perNode} is not set`);
  return { task, numTasks, numTasksName, localTask, localTasks, numNodes };
}

/** Tasks of this node in a list such as "8(x3),4": three nodes with 8 and one with 4. */
function tasksHere(variables: Variables, name: string): number | undefined {
  const text = variables.text(name);
  if (text === undefined) return undefined;
  let nodes = variables.integer("SLURM_NODEID", { because: name });
  for (const part of text.split(",")) {
    const match = /^(\d{1,9})(?:\(x(\d{1,9})\))?$/.exec(part);
    if (!match) throw wrong(`${variables.shown(name)} is no list such as "8(x3),4"`);
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
    if (host === undefined) throw wrong(`${variables.shown(name)} is no list of hosts such as "gpu[01-04],login"`);
    return host;
  }
  // Where srun was called: the first node in a batch job, but a login node for an interactive one.
  if (variables.has("SLURM_LAUNCH_NODE_IPADDR")) return variables.host("SLURM_LAUNCH_NODE_IPADDR");
  throw wrong(`${variables.shown(numTasksName)}, but SLURM_JOB_NODELIST is not set`);
}

/**
 * The first host of a SLURM node list, in which brackets hold numbers: "gpu[003-005,9],login" begins with gpu003.
 *
 * @returns undefined if it is no such list
 */
export function firstHost(list: string): string | undefined {
  const brackets = String.raw`\[\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*\]`;
  const host = String.raw`(?:[\w.-]|${brackets})+`;
  if (!new RegExp(`^${host}(?:,${host})*$`).test(list)) return undefined;
  const first = /^(?:[^,[]|\[[^\]]*\])*/.exec(list)?.[0] ?? "";
  return first.replace(/\[(\d+)[^\]]*\]/g, "$1");
}

/** A port for each step of each job, below those that the kernel gives to outgoing connections. */
function slurmPort(variables: Variables): number {
  const job = variables.integer("SLURM_JOB_ID", { because: "SLURM_PROCID" });
  const step = variables.integer(variables.has("SLURM_STEP_ID") ? "SLURM_STEP_ID" : "SLURM_STEPID");
  return 12_000 + ((job * 7 + step) % 16_000);
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127\.\d+\.\d+\.\d+$/.test(host);
}

/** Variables, read strictly. It remembers which were asked for, to name them. */
class Variables {
  readonly #env: NodeJS.ProcessEnv;
  readonly #asked = new Set<string>();

  constructor(env: NodeJS.ProcessEnv) {
    this.#env = env;
  }

  text(name: string): string | undefined {
    const value = this.#env[name];
    if (value === undefined || value === "") return undefined;
    return value;
  }

  has(name: string): boolean {
    return this.text(name) !== undefined;
  }

  /** "RANK=3" */
  shown(name: string): string {
    return `${name}=${this.text(name) ?? ""}`;
  }

  /** The numbers that were read. */
  asked(): string[] {
    return [...this.#asked].map((name) => this.shown(name));
  }

  contradiction(one: string, other: string): DistributedError {
    return wrong(`${this.shown(one)} contradicts ${this.shown(other)}`);
  }

  /** @param because the variable that makes this one necessary */
  integer(name: string, { fallback, because }: { fallback?: number; because?: string } = {}): number {
    const text = this.text(name);
    if (text === undefined && fallback !== undefined) return fallback;
    const value = this.#needed(name, because);
    if (!/^\d{1,15}$/.test(value)) throw wrong(`${this.shown(name)} is no number from 0`);
    this.#asked.add(name);
    return Number(value);
  }

  port(name: string, { because }: { because?: string } = {}): number {
    const value = this.#needed(name, because);
    const port = /^\d{1,5}$/.test(value) ? Number(value) : 0;
    if (port < 1 || port > 65535) throw wrong(`${this.shown(name)} is no port from 1 to 65535`);
    return port;
  }

  host(name: string, { because }: { because?: string } = {}): string {
    const value = this.#needed(name, because);
    // Addresses and scheme://... are what people write here by mistake; IPv6 has several colons.
    if (!/^[\w.:%-]+$/.test(value) || /^[^:]*:[^:]*$/.test(value)) {
      throw wrong(`${this.shown(name)} is no host: a name or an IP address, without a port`);
    }
    return value;
  }

  #needed(name: string, because?: string): string {
    const value = this.text(name);
    if (value !== undefined) return value;
    throw wrong(because === undefined ? `${name} is not set` : `${this.shown(because)}, but ${name} is not set`);
  }
}

function wrong(message: string): DistributedError {
  return new DistributedError("DISTRIBUTED_ENVIRONMENT", `what the launcher set is wrong: ${message}`);
}
