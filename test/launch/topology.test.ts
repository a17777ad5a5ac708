import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { LaunchOptions } from "../../lib/cli/command-options.js";
import { launchCommand } from "../../lib/cli/commands.js";
import { CliError } from "../../lib/cli/errors.js";
import { rankEnvironment, readTopology } from "../../lib/cli/launch/topology.js";
import { readLaunchEnvironment } from "../../lib/distributed/launch-environment.js";

/** Parses a command line as a person types it, without running it. */
function parse(...words: string[]): { options: LaunchOptions; args: string[] } {
  const silent = { writeErr: () => {}, writeOut: () => {} };
  const command = launchCommand();
  command.exitOverride().configureOutput(silent).enablePositionalOptions();
  command.action(() => {});
  command.parse(words, { from: "user" });
  return { options: command.opts(), args: command.args };
}

const topology = (words: string[], env: NodeJS.ProcessEnv = {}) => readTopology(parse(...words, "x.ts").options, env);

const PET = {
  PET_NNODES: "2",
  PET_NPROC_PER_NODE: "4",
  PET_NODE_RANK: "1",
  PET_MASTER_ADDR: "job-node-0-0.job",
  PET_MASTER_PORT: "29400",
};

let bin: string;
beforeAll(() => {
  bin = mkdtempSync(join(tmpdir(), "diffcoder-launch-"));
  const list =
    "GPU 0: NVIDIA H100 (UUID: GPU-1)\\n  MIG 1g.10gb Device 0: (UUID: MIG-2)\\nGPU 1: NVIDIA H100 (UUID: GPU-3)\\n";
  writeFileSync(join(bin, "nvidia-smi"), `#!/bin/sh\nprintf '${list}'\n`);
  chmodSync(join(bin, "nvidia-smi"), 0o755);
});
afterAll(() => rmSync(bin, { recursive: true }));

describe("the command line", () => {
  it("leaves what follows the program to it", () => {
    const { options, args } = parse("--nproc", "3", "train.ts", "--nproc", "9", "-q", "--", "--help");
    expect(options).toMatchObject({ nproc: "3", maxRestarts: 0, grace: 15, prefix: true });
    expect(args).toEqual(["train.ts", "--nproc", "9", "-q", "--", "--help"]);
    expect(parse("--", "npx", "x", "--y").args).toEqual(["npx", "x", "--y"]);
  });

  it.each([
    [["--nproc", "0"], /'0' is invalid. expected a number from 1/],
    [["--nproc", "-1"], /invalid/],
    [["--nproc", "2.5"], /invalid/],
    [["--nproc", "many"], /invalid/],
    [["--nnodes", "0"], /invalid/],
    [["--master-port", "70000"], /from 1 to 65535/],
    [["--max-restarts", "-1"], /invalid/],
    [["--grace", "soon"], /expected a number from 0/],
    [["--unknown"], /unknown option/],
  ])("refuses %j", (words, message) => {
    expect(() => parse(...words, "x.ts")).toThrow(message);
  });
});

describe("the size of a job", () => {
  it("is one process on one machine if nothing is said", () => {
    expect(topology([])).toEqual({ nproc: 1, nnodes: 1, nodeRank: 0, masterAddr: "127.0.0.1", masterPort: undefined });
  });

  it("comes from torchrun's PET_ variables, and options come first", () => {
    const expected = { nproc: 4, nnodes: 2, nodeRank: 1, masterAddr: "job-node-0-0.job", masterPort: 29400 };
    expect(topology([], PET)).toEqual(expected);
    expect(topology([], { ...PET, PET_NNODES: "2:2" })).toEqual(expected);
    const given = ["--nproc", "2", "--nnodes", "3", "--node-rank", "2", "--master-addr", "a", "--master-port", "5"];
    expect(topology(given, PET)).toEqual({ nproc: 2, nnodes: 3, nodeRank: 2, masterAddr: "a", masterPort: 5 });
    expect(topology([], { ...PET, PET_MASTER_PORT: "" }).masterPort).toBe(29500);
  });

  it.each([
    [[], { ...PET, PET_NODE_RANK: "" }, /set --node-rank/],
    [[], { ...PET, PET_MASTER_ADDR: "" }, /set --master-addr/],
    [[], { ...PET, PET_NODE_RANK: "2" }, /0 to 1/],
    [[], { ...PET, PET_NNODES: "1:4" }, /PET_NNODES=1:4: .*not supported/],
    [[], { ...PET, PET_NNODES: "two" }, /PET_NNODES=two/],
    [[], { ...PET, PET_NPROC_PER_NODE: "0" }, /PET_NPROC_PER_NODE=0/],
    [[], { ...PET, PET_MASTER_PORT: "70000" }, /PET_MASTER_PORT=70000: expected an integer from 1 to 65535/],
    [["--nproc", "gpu"], { CUDA_VISIBLE_DEVICES: "" }, /--nproc gpu/],
  ])("is refused with %j and %j", (words, env, message) => {
    expect(() => topology(words, env)).toThrow(CliError);
    expect(() => topology(words, env)).toThrow(message);
  });

  it("is refused in each task of srun, unless it is said how many machines there are", () => {
    const task = {
      ...{ SLURM_JOB_ID: "1", SLURM_STEP_ID: "0", SLURM_PROCID: "1", SLURM_LOCALID: "0", SLURM_NTASKS: "2" },
      ...{ SLURM_NODEID: "1", SLURM_NNODES: "2", SLURM_TASKS_PER_NODE: "1(x2)", SLURM_JOB_NODELIST: "n[1-2]" },
    };
    expect(() => topology([], task)).toThrow(/already one of 2 processes \(rank 1, by srun\).*--nnodes/);
    const given = ["--nnodes", "2", "--node-rank", "1", "--master-addr", "n1"];
    expect(topology(given, task)).toMatchObject({ nnodes: 2, nodeRank: 1 });
    expect(topology(["--nnodes", "1"], task)).toMatchObject({ nnodes: 1 });
  });

  it.each([
    [{ CUDA_VISIBLE_DEVICES: "0,3" }, 2],
    [{ CUDA_VISIBLE_DEVICES: "GPU-8932f937,GPU-2, GPU-3" }, 3],
    [{ CUDA_VISIBLE_DEVICES: "0,-1,2" }, 1],
    [{ CUDA_VISIBLE_DEVICES: "" }, availableParallelism()],
    [{ PATH: "/nowhere" }, availableParallelism()],
  ])("auto: %j", (env, count) => {
    expect(topology(["--nproc", "auto"], env).nproc).toBe(count);
    expect(topology(["--nproc", "cpu"], env).nproc).toBe(availableParallelism());
  });

  it("auto: asks nvidia-smi, which counts GPUs and not their parts", () => {
    expect(topology(["--nproc", "auto"], { PATH: `${bin}:${process.env.PATH}` }).nproc).toBe(2);
    expect(topology([], { PATH: `${bin}:${process.env.PATH}`, PET_NPROC_PER_NODE: "gpu" }).nproc).toBe(2);
  });
});

it("each process reads what the launcher set", () => {
  const job = { topology: topology([], PET), runId: "x", maxRestarts: 3 };
  const read = [0, 1, 2, 3].map((local) => readLaunchEnvironment(rankEnvironment(job, local, 29400, 1)));
  for (const [localRank, seen] of read.entries()) {
    expect(seen).toEqual({
      ...{ rank: 4 + localRank, worldSize: 8, localRank, localWorldSize: 4, masterAddr: "job-node-0-0.job" },
      ...{ masterPort: 29400, restartCount: 1, maxRestarts: 3, launcher: "diffcoder", storeIsHosted: false },
    });
  }
});
