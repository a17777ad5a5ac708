import * as torch from "../torch/index.js";
import { packageVersion } from "../torch/package-version.js";
import { DistributedError } from "./errors.js";
import { requireAlike } from "./exchange.js";
import type { LaunchEnvironment } from "./launch-environment/variables.js";
import { readLaunchEnvironment } from "./launch-environment.js";
import { c10d } from "./native.js";
import { type Backend, ProcessGroup } from "./process-group.js";
import { DEFAULT_TIMEOUT, PrefixStore, type Store, TCPStore } from "./store.js";

/** All processes of a job, as one of them sees it. */
export interface World {
  readonly rank: number;
  readonly size: number;
  readonly localRank: number;
  readonly environment: LaunchEnvironment;
  /** Where this process computes: "cuda:LOCAL_RANK" with NCCL, "cpu" with Gloo. */
  readonly device: string;
  readonly store: Store;
  /** Collectives of tensors on {@link device}. */
  readonly group: ProcessGroup;
  /** A group over Gloo for host memory and small objects. It waits behind no gradient. */
  readonly control: ProcessGroup;
}

export interface InitOptions {
  /** Default: NCCL where CUDA and NCCL are, else Gloo. */
  backend?: Backend;
  /** Seconds that joining, and then every collective, may take. Default 300. */
  timeout?: number;
  /** Default: what the launcher set, see {@link readLaunchEnvironment}. */
  environment?: LaunchEnvironment;
}

/** Where rank 0's store listens if not at MASTER_ADDR: behind a service's or translated address, "0.0.0.0". */
const LISTEN_HOST = "DIFFCODER_STORE_HOST";

let current: World | undefined;
/** How many worlds this process tried to join: all members count alike. */
let attempts = 0;
/** The connection, or on rank 0 the server, under each world's store. */
const bases = new WeakMap<World, Store>();
/** The world that {@link abortProcessGroup} gave up: its store still answers whoever asks what happened. */
let abandoned: World | undefined;

/** The world that {@link initProcessGroup} joined; undefined in a process of its own. */
export function world(): World | undefined {
  return current;
}

/**
 * Joins the other processes of a job: torch.distributed.init_process_group. Rank 0 serves the store through which all
 * meet, unless the launcher does. With NCCL the process takes the CUDA device of its local rank.
 *
 * @throws DistributedError DISTRIBUTED_ENVIRONMENT when no launcher set this process's rank, DISTRIBUTED_STATE when it
 *   joined already or processes differ in backend or version, DISTRIBUTED_TIMEOUT naming the ranks that did not come
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
  if (abandoned) closeStores(abandoned); // its port is needed again
  abandoned = undefined;
  const attempt = attempts++;
  const isServer = rank === 0 && !storeIsHosted;
  const listenHost = process.env[LISTEN_HOST] || undefined;
  const base = await connect({ host: masterAddr, port: masterPort, isServer, listenHost, timeout });
  // A store that a launcher keeps still has the keys of earlier processes and worlds. One of rank 0's is new with each, and
  // the launchers of several machines do not count restarts alike.
  const store = new PrefixStore(storeIsHosted ? `diffcoder/${restartCount}/${attempt}` : "diffcoder", base);
  let control: ProcessGroup | undefined;
  try {
    // Processes with other backends or libraries would wait for each other in their first collective, or compute other things.
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
    base.dispose(); // so that the port is free for another attempt
    throw error;
  }
}

function takeDevice(localRank: number): string {
  const count = torch.cuda.deviceCount();
  if (localRank >= count) {
    const message = `local rank ${localRank} has no CUDA device of its own: ${count} are visible`;
    throw new DistributedError(
      "DISTRIBUTED_ENVIRONMENT",
      `${message}. Start ${count} processes a machine, or use "gloo"`,
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
    const message = `rank 0's store at ${where} did not answer within ${options.timeout} s: is rank 0 running, and the port open?`;
    throw new DistributedError("DISTRIBUTED_TIMEOUT", message, { cause: error });
  }
}

/** Leaves the world: all its groups must be idle. Others must not be waiting for this process. */
export async function destroyProcessGroup(): Promise<void> {
  const leaving = current;
  current = undefined;
  if (!leaving) return;
  await leaving.group.destroy();
  await leaving.control.destroy();
  closeStores(leaving);
}

/** Gives the world up after a failure, without waiting for anybody: see {@link ProcessGroup.abort}. */
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
