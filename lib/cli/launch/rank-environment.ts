import { availableParallelism } from "node:os";
import type { Topology } from "./topology.js";

/** A job as its processes see it: the same for all of them, also after a restart. */
export interface Job {
  runId: string;
  maxRestarts: number;
  topology: Topology;
}

/** Number among all processes of the one with number `localRank` here. */
export function globalRank({ nodeRank, nproc }: Topology, localRank: number): number {
  return nodeRank * nproc + localRank;
}

/**
 * The variables of one process: torchrun's names and meanings, as PyTorch's `env://` reads them.
 *
 * @param restartCount starts before this one
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
    TORCHELASTIC_USE_AGENT_STORE: "False", // rank 0 opens the store; a torchrun around us may have said otherwise
    DIFFCODER_LAUNCHER: "diffcoder",
  };
}

/** Threads of each process, so that they share the cores and do not spin against each other. */
export function threadsPerRank({ nproc }: Topology): number {
  return Math.max(1, Math.floor(availableParallelism() / nproc));
}
