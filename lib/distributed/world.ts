import * as torch from "../torch/index.js";
import { packageVersion } from "../torch/package-version.js";
import { DistributedError } from "./errors.js";
import { requireAlike } from "./exchange.js";
import type { LaunchEnvironment } from "./launch-environment/variables.js";
import { readLaunchEnvironment } from "./launch-environment.js";
import { c10d } from "./native.js";
import { type Backend, ProcessGroup } from "./process-group.js";
import { DEFAULT_TIMEOUT, PrefixStore, type Store, TCPStore } from "./store.js";

/** The processes of a job, from the perspective of one of them. */
export interface World {
  readonly rank: number;
  readonly size: number;
  readonly localRank: number;
  readonly environment: LaunchEnvironment;
  /** Device of this process: "cuda:LOCAL_RANK" with NCCL, "cpu" with Gloo. */
  readonly device: string;
  readonly store: Store;
  /** Group for collectives of tensors on {@link device}. */
  readonly group: ProcessGroup;
  /** Gloo group for host memory and small objects, which does not queue behind gradients. */
  readonly control: ProcessGroup;
}

export interface InitOptions {
  /** Default: NCCL if CUDA and NCCL are available, else Gloo. */
  backend?: Backend;
  /** Timeout of joining, and then of every collective, in seconds. Default 300. */
  timeout?: number;
  /** Default: the launcher's variables, see {@link readLaunchEnvironment}. */
  environment?: LaunchEnvironment;
}

/**
 * Environment variable with the address on which rank 0's store listens, if not MASTER_ADDR: "0.0.0.0" behind a service
 * or NAT.
 */
const LISTEN_HOST = "DIFFCODER_STORE_HOST";

let current: World | undefined;
/** Number of attempts of this process to join a world; it is equal in all members. */
let attempts = 0;
/** The connection, or on rank 0 the server, under each world's store. */
const bases = new WeakMap<World, Store>();
/** The world that {@link abortProcessGroup} aborted: its store stays open so that others can read the cause. */
let abandoned: World | undefined;

/** The world that {@link initProcessGroup} joined; undefined in a single process. */
export function world(): World | undefined {
  return current;
}

/**
 * Joins the other processes of a job: torch.distributed.init_process_group. Rank 0 serves the rendezvous store, unless
 * the launcher does. With NCCL the process uses the CUDA device of its local rank.
 *
 * @throws DistributedError DISTRIBUTED_ENVIRONMENT if no launcher set this process's rank, DISTRIBUTED_STATE if it has
 *   already joined or processes differ in backend or version, DISTRIBUTED_TIMEOUT naming the ranks that did not arrive
 */
export async function initProcessGroup(options: InitOptions = {}): Promise<World> {
  if (current) throw new DistributedError("DISTRIBUTED_STATE", "initProcessGroup was called already");
  const environment = options.environment ?? readLaunchEnvironment();
  if (!environment) {
    const hint = "start the program with `npx diffcoder launch`, torchrun or srun";
    throw new DistributedError("DISTRIBUTED_ENVIRONMENT", `no launcher set this process's rank: ${hint}`);
  }
  const { timeout = DEFAULT_TIMEOUT } = options;
  const { rank, worldSize: size, localRank, masterAddr, masterPort, restartCount, storeIsHosted } = environment;
  const backend = options.backend ?? (torch.cuda.isAvailable() && c10d.hasNccl() ? "nccl" : "gloo");
  const device = backend === "nccl" ? takeDevice(localRank) : "cpu";
  if (abandoned) closeStores(abandoned); // its port is reused
  abandoned = undefined;
  const attempt = attempts++;
  const isServer = rank === 0 && !storeIsHosted;
  const listenHost = process.env[LISTEN_HOST] || undefined;
  const base = await connect({ host: masterAddr, port: masterPort, isServer, listenHost, timeout });
  // A launcher's store still has the keys of earlier processes and worlds, so keys are prefixed. Rank 0's own store is
  // new for each world, and the launchers of several machines may count restarts differently.
  const store = new PrefixStore(storeIsHosted ? `diffcoder/${restartCount}/${attempt}` : "diffcoder", base);
  let control: ProcessGroup | undefined;
  try {
    // Processes with different backends or library versions would deadlock in their first collective or compute
    // different results.
    const own = { backend, "stable-diffcoder": packageVersion(), libtorch: torch.build().torch };
    await requireAlike({ store, rank, size, timeout }, "joining", `joining as rank ${rank} of ${size}`, own);
    control = await ProcessGroup.create(store, rank, size, { backend: "gloo", timeout, name: "control" });
    const group = await ProcessGroup.create(store, rank, size, { backend, timeout, name: "world", device });
    current = { rank, size, localRank, environment, device, store, group, control };
    bases.set(current, base);
    return current;
  } catch (error) {
    control?.abort();
    store.dispose();
    base.dispose(); // frees the port for another attempt
    throw error;
  }
}

function takeDevice(localRank: number): string {
  const count = torch.cuda.deviceCount();
  if (localRank >= count) {
    const message = `local rank ${localRank} has no CUDA device: ${count} are visible`;
    throw new DistributedError(
      "DISTRIBUTED_ENVIRONMENT",
      `${message}. Start at most ${count} processes per machine, or use "gloo"`,
    );
  }
  torch.cuda.setDevice(localRank);
  return `cuda:${localRank}`;
}

async function connect(options: {
  host: string;
  port: number;
  isServer: boolean;
  listenHost: string | undefined;
  timeout: number;
}): Promise<TCPStore> {
  try {
    return await TCPStore.connect(options);
  } catch (error) {
    if (options.isServer) throw error;
    const where = `${options.host}:${options.port}`;
    const message = `rank 0's store at ${where} did not respond within ${options.timeout} s: check that rank 0 is running and the port is open`;
    throw new DistributedError("DISTRIBUTED_TIMEOUT", message, { cause: error });
  }
}

/** Leaves the world. All its groups must be idle, and no other process may be waiting for this one. */
export async function destroyProcessGroup(): Promise<void> {
  const leaving = current;
  current = undefined;
  if (!leaving) return;
  await leaving.group.destroy();
  await leaving.control.destroy();
  closeStores(leaving);
}

/** Aborts the world after a failure, without waiting for other processes, see {@link ProcessGroup.abort}. */
export function abortProcessGroup(): void {
  if (!current) return;
  abandoned = current;
  current = undefined;
  abandoned.group.abort();
  abandoned.control.abort();
}

function closeStores(world: World): void {
  world.store.dispose();
  bases.get(world)?.dispose();
}
