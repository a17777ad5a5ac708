import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { DistributedError } from "../../lib/distributed/errors.js";
import { firstHost } from "../../lib/distributed/launch-environment/slurm.js";
import type { LaunchEnvironment } from "../../lib/distributed/launch-environment/variables.js";
import { readLaunchEnvironment } from "../../lib/distributed/launch-environment.js";

const TORCHRUN = {
  RANK: "5",
  WORLD_SIZE: "8",
  LOCAL_RANK: "1",
  LOCAL_WORLD_SIZE: "4",
  GROUP_RANK: "1",
  MASTER_ADDR: "node0.cluster",
  MASTER_PORT: "29400",
  TORCHELASTIC_RESTART_COUNT: "2",
  TORCHELASTIC_MAX_RESTARTS: "3",
  TORCHELASTIC_RUN_ID: "none",
  TORCHELASTIC_USE_AGENT_STORE: "True",
};
const SRUN = {
  SLURM_JOB_ID: "1234567",
  SLURM_STEP_ID: "0",
  SLURM_PROCID: "9",
  SLURM_LOCALID: "1",
  SLURM_NODEID: "2",
  SLURM_NTASKS: "10",
  SLURM_NNODES: "3",
  SLURM_TASKS_PER_NODE: "4(x2),2",
  SLURM_JOB_NODELIST: "gpu[007-008,010]",
};
const JOB = { JOB_COMPLETION_INDEX: "1", WORLD_SIZE: "4", MASTER_ADDR: "train-0.train" };

/** The message for variables that are refused. */
function refusal(env: NodeJS.ProcessEnv): string {
  try {
    readLaunchEnvironment(env);
  } catch (error) {
    expect(error).toBeInstanceOf(DistributedError);
    expect((error as DistributedError).code).toBe("DISTRIBUTED_ENVIRONMENT");
    return (error as Error).message;
  }
  throw new Error("it was accepted");
}

describe("torchrun's variables", () => {
  it("are read", () => {
    expect(readLaunchEnvironment(TORCHRUN)).toEqual({
      rank: 5,
      worldSize: 8,
      localRank: 1,
      localWorldSize: 4,
      masterAddr: "node0.cluster",
      masterPort: 29400,
      restartCount: 2,
      maxRestarts: 3,
      launcher: "torchrun",
      storeIsHosted: true,
    } satisfies LaunchEnvironment);
  });

  it("name the launcher that set them, and whether its agent holds the store", () => {
    const { TORCHELASTIC_RUN_ID: _, TORCHELASTIC_USE_AGENT_STORE: __, ...byHand } = TORCHRUN;
    expect(readLaunchEnvironment(byHand)).toMatchObject({ launcher: "env", storeIsHosted: false });
    const ours = { ...TORCHRUN, DIFFCODER_LAUNCHER: "diffcoder", TORCHELASTIC_USE_AGENT_STORE: "False" };
    expect(readLaunchEnvironment(ours)).toMatchObject({ launcher: "diffcoder", storeIsHosted: false });
  });

  it("may leave out the place on the machine where it follows", () => {
    const { RANK, WORLD_SIZE, MASTER_PORT } = TORCHRUN;
    const local = { RANK, WORLD_SIZE, MASTER_PORT, MASTER_ADDR: "127.0.0.1" };
    expect(readLaunchEnvironment(local)).toMatchObject({ localRank: 5, localWorldSize: 8 });
    // One process on each machine, as Kubeflow's PyTorchJob has it.
    const remote = { ...local, MASTER_ADDR: "job-master-0" };
    expect(readLaunchEnvironment(remote)).toMatchObject({ localRank: 0, localWorldSize: 1 });
    expect(refusal({ ...remote, LOCAL_RANK: "1" })).toMatch(/LOCAL_RANK=1, but LOCAL_WORLD_SIZE is not set/);
    expect(refusal({ ...remote, LOCAL_WORLD_SIZE: "2" })).toMatch(/LOCAL_WORLD_SIZE=2, but LOCAL_RANK is not set/);
    // Set from SLURM's in a wrapper script.
    const wrapped = { ...SRUN, RANK: "9", WORLD_SIZE: "10", LOCAL_RANK: "1", MASTER_ADDR: "gpu007", MASTER_PORT };
    expect(readLaunchEnvironment(wrapped)).toMatchObject({ rank: 9, localRank: 1, localWorldSize: 2, launcher: "env" });
  });

  it.each([
    [{ WORLD_SIZE: undefined }, /RANK=5, but WORLD_SIZE is not set/],
    [{ RANK: undefined }, /WORLD_SIZE=8, but RANK is not set/],
    [{ RANK: "8" }, /rank 8 of 8.*RANK=8, WORLD_SIZE=8/],
    [{ WORLD_SIZE: "0" }, /WORLD_SIZE=0/],
    [{ LOCAL_RANK: "4" }, /local rank 4 of 4.*LOCAL_RANK=4, LOCAL_WORLD_SIZE=4/],
    [{ LOCAL_WORLD_SIZE: "9" }, /LOCAL_WORLD_SIZE=9/],
    [{ MASTER_ADDR: "" }, /MASTER_ADDR is not set/],
    [{ MASTER_ADDR: "tcp://node0" }, /MASTER_ADDR=tcp:\/\/node0 is not a host/],
    [{ MASTER_ADDR: "node0:29500" }, /without a port/],
    [{ MASTER_PORT: undefined }, /MASTER_PORT is not set/],
    [{ MASTER_PORT: "0" }, /MASTER_PORT=0 is not a port/],
    [{ MASTER_PORT: "65536" }, /MASTER_PORT=65536 is not a port/],
    [{ MASTER_PORT: "29500 " }, /is not a port/],
    [{ RANK: "-1" }, /RANK=-1 is not a non-negative integer/],
    [{ RANK: "1e0" }, /RANK=1e0 is not a non-negative integer/],
    [{ TORCHELASTIC_RESTART_COUNT: "two" }, /TORCHELASTIC_RESTART_COUNT=two is not a non-negative integer/],
  ])("are refused with %j", (change, message) => {
    expect(refusal({ ...TORCHRUN, ...change })).toMatch(message);
  });

  it("are refused where every task of srun got the batch script's RANK", () => {
    const exported = { RANK: "0", WORLD_SIZE: "10", MASTER_ADDR: "gpu007", MASTER_PORT: "29500" };
    expect(refusal({ ...SRUN, ...exported })).toMatch(/RANK=0 contradicts SLURM_PROCID=9/);
    // What a launcher in the task set is another matter.
    expect(readLaunchEnvironment({ ...SRUN, ...TORCHRUN })).toMatchObject({ rank: 5, launcher: "torchrun" });
  });

  it("are refused or right, whatever they are", () => {
    const text = fc.oneof(
      fc.nat(12).map(String),
      fc.constantFrom("", " 1", "-1", "0x1", "1.5", "NaN", "٣"),
      fc.string(),
    );
    const names = Object.keys(TORCHRUN) as (keyof typeof TORCHRUN)[];
    const values = fc.record(Object.fromEntries(names.map((name) => [name, text])), { requiredKeys: [] });
    const accepted = fc.oneof(
      values,
      values.map((some) => ({ ...TORCHRUN, ...some })),
    );
    fc.assert(
      fc.property(accepted, (env: NodeJS.ProcessEnv) => {
        let read: LaunchEnvironment | undefined;
        try {
          read = readLaunchEnvironment(env);
        } catch (error) {
          expect(error).toBeInstanceOf(DistributedError);
          expect(names.some((name) => (error as Error).message.includes(name))).toBe(true);
          return;
        }
        if (read === undefined) {
          expect([env.RANK, env.WORLD_SIZE, env.LOCAL_RANK].filter(Boolean)).toEqual([]);
          return;
        }
        expect(String(read.rank)).toBe(env.RANK?.replace(/^0+(?=\d)/, ""));
        expect(read.rank).toBeLessThan(read.worldSize);
        expect(read.localRank).toBeLessThan(read.localWorldSize);
        expect(read.localWorldSize).toBeLessThanOrEqual(read.worldSize);
        expect(read.masterPort).toBeGreaterThan(0);
        expect(read.masterPort).toBeLessThan(65536);
        expect(read.masterAddr).toBe(env.MASTER_ADDR);
      }),
      { numRuns: 500 },
    );
  });
});

describe("a step of SLURM", () => {
  it("gives rank, place and the first host", () => {
    expect(readLaunchEnvironment({ ...SRUN, SLURM_RESTART_COUNT: "1" })).toMatchObject({
      rank: 9,
      worldSize: 10,
      localRank: 1,
      localWorldSize: 2,
      masterAddr: "gpu007",
      restartCount: 1,
      launcher: "slurm",
      storeIsHosted: false,
    });
  });

  it("has a port of its own, the same in all tasks", () => {
    const portOf = (change: object) => readLaunchEnvironment({ ...SRUN, ...change })?.masterPort ?? 0;
    const ports = [portOf({}), portOf({ SLURM_STEP_ID: "1" }), portOf({ SLURM_JOB_ID: "1234568" })];
    expect(new Set(ports).size).toBe(3);
    expect(portOf({ SLURM_PROCID: "0", SLURM_LOCALID: "0", SLURM_NODEID: "0" })).toBe(ports[0]);
    for (const port of ports) expect(port > 1024 && port < 32_768).toBe(true);
    expect(portOf({ MASTER_PORT: "4000" })).toBe(4000);
    expect(refusal({ ...SRUN, SLURM_JOB_ID: undefined })).toMatch(/SLURM_JOB_ID is not set/);
  });

  it("prefers what is said of the step to what is said of the job", () => {
    const step = {
      SLURM_PROCID: "1",
      SLURM_STEP_NUM_TASKS: "2",
      SLURM_STEP_NUM_NODES: "2",
      SLURM_STEP_TASKS_PER_NODE: "1(x2)",
      SLURM_STEP_NODELIST: "gpu[008,010]",
      SLURM_LOCALID: "0",
      SLURM_NODEID: "1",
    };
    const read = readLaunchEnvironment({ ...SRUN, ...step });
    expect(read).toMatchObject({ rank: 1, worldSize: 2, localWorldSize: 1, masterAddr: "gpu008" });
  });

  it("on one machine needs no name of it", () => {
    const { SLURM_JOB_NODELIST: _, SLURM_TASKS_PER_NODE: __, ...rest } = SRUN;
    const one = { ...rest, SLURM_NNODES: "1", SLURM_NODEID: "0" };
    expect(readLaunchEnvironment(one)).toMatchObject({ masterAddr: "127.0.0.1", localWorldSize: 10 });
  });

  it("takes the address of srun's machine only where there is no list", () => {
    const { SLURM_JOB_NODELIST: _, ...rest } = SRUN;
    const launched = { ...rest, SLURM_LAUNCH_NODE_IPADDR: "10.1.2.3" };
    expect(readLaunchEnvironment(launched)?.masterAddr).toBe("10.1.2.3");
    expect(readLaunchEnvironment({ ...SRUN, SLURM_LAUNCH_NODE_IPADDR: "10.1.2.3" })?.masterAddr).toBe("gpu007");
    expect(readLaunchEnvironment({ ...SRUN, MASTER_ADDR: "10.1.2.4" })?.masterAddr).toBe("10.1.2.4");
    expect(refusal(rest)).toMatch(/SLURM_JOB_NODELIST is not set/);
  });

  it.each([
    [{ SLURM_PROCID: undefined }, /SLURM_NTASKS=10, but SLURM_PROCID is not set/],
    [{ SLURM_PROCID: "10" }, /rank 10 of 10/],
    [{ SLURM_LOCALID: "2" }, /local rank 2 of 2/],
    [{ SLURM_NODEID: "3" }, /SLURM_NODEID=3 contradicts SLURM_TASKS_PER_NODE/],
    [{ SLURM_TASKS_PER_NODE: "4(x" }, /SLURM_TASKS_PER_NODE=4\(x is not a list/],
    [{ SLURM_JOB_NODELIST: "gpu[1" }, /SLURM_JOB_NODELIST=gpu\[1 is not a list/],
    [{ WORLD_SIZE: "4" }, /WORLD_SIZE=4 contradicts SLURM_NTASKS=10/],
  ])("is refused with %j", (change, message) => {
    expect(refusal({ ...SRUN, ...change })).toMatch(message);
  });

  it("is none in a batch script, an interactive shell, or with one task", () => {
    // In a batch script and in salloc's shell the allocation's variables are there, and no step's.
    expect(readLaunchEnvironment({ ...SRUN, SLURM_STEP_ID: undefined, SLURM_PROCID: "0" })).toBeUndefined();
    expect(readLaunchEnvironment({ ...SRUN, SLURM_STEP_ID: undefined, SLURM_PROCID: undefined })).toBeUndefined();
    expect(readLaunchEnvironment({ ...SRUN, SLURM_STEP_NUM_TASKS: "1", SLURM_PROCID: "0" })).toBeUndefined();
    expect(readLaunchEnvironment({ ...SRUN, SLURM_NTASKS: "1", SLURM_PROCID: "0" })).toBeUndefined();
  });
});

describe("the first host of a node list", () => {
  it.each([
    ["gpu01", "gpu01"],
    ["gpu01,gpu02", "gpu01"],
    ["gpu[003-005,9],login", "gpu003"],
    ["gpu[9,003-005]", "gpu9"],
    ["rack[1-2]n[01-04]", "rack1n01"],
    ["c[1,3]-ib0.local,d", "c1-ib0.local"],
  ])("of %s is %s", (list, host) => {
    expect(firstHost(list)).toBe(host);
  });

  it.each(["", ",a", "a,", "a[", "a[]", "a[1-]", "a[x]", "a]b", "a b", "a[1][", "a,,b", `${"a".repeat(5000)}!`])(
    "of %j is none",
    (list) => {
      expect(firstHost(list)).toBeUndefined();
    },
  );

  it("is the first of those that were written", () => {
    const hosts = fc.array(fc.stringMatching(/^[a-z]{1,4}-?[a-z]{0,3}$/), { minLength: 1, maxLength: 5 });
    fc.assert(
      fc.property(
        hosts,
        fc.array(fc.nat(999), { minLength: 1, maxLength: 4 }),
        fc.boolean(),
        (names, numbers, padded) => {
          const shown = numbers.map((number) => String(number).padStart(padded ? 4 : 0, "0"));
          const [first, ...rest] = names;
          expect(firstHost([`${first}[${shown.join(",")}]`, ...rest].join(","))).toBe(`${first}${shown[0]}`);
          expect(firstHost([`${first}[${shown[0]}-2000]-eth`, ...rest].join(","))).toBe(`${first}${shown[0]}-eth`);
          expect(firstHost([...rest, first].join(","))).toBe(rest[0] ?? first);
        },
      ),
    );
  });
});

describe("Kubernetes", () => {
  it("gives an indexed Job's pods their ranks", () => {
    expect(readLaunchEnvironment(JOB)).toMatchObject({
      rank: 1,
      worldSize: 4,
      localRank: 0,
      localWorldSize: 1,
      masterAddr: "train-0.train",
      masterPort: 29500,
      launcher: "kubernetes",
    });
    expect(readLaunchEnvironment({ ...JOB, MASTER_PORT: "1234" })?.masterPort).toBe(1234);
  });

  it("may run a Job whose pods have nothing to do with each other", () => {
    expect(readLaunchEnvironment({ JOB_COMPLETION_INDEX: "1" })).toBeUndefined();
  });

  it("is refused where half of it is missing", () => {
    expect(refusal({ ...JOB, MASTER_ADDR: undefined })).toMatch(/WORLD_SIZE=4, but MASTER_ADDR is not set/);
    expect(refusal({ ...JOB, WORLD_SIZE: undefined })).toMatch(/MASTER_ADDR=train-0.train, but WORLD_SIZE is not set/);
    expect(refusal({ ...JOB, JOB_COMPLETION_INDEX: "4" })).toMatch(/rank 4 of 4.*JOB_COMPLETION_INDEX=4/);
  });

  it("in a TrainJob's container refuses what was started without a launcher", () => {
    const pet = {
      PET_NNODES: "2",
      PET_NPROC_PER_NODE: "auto",
      PET_NODE_RANK: "0",
      PET_MASTER_ADDR: "job-node-0-0.job",
    };
    expect(refusal(pet)).toMatch(/PET_NNODES=2, but RANK is not set.*diffcoder launch/);
    expect(refusal({ ...pet, PET_NNODES: "1", PET_NPROC_PER_NODE: "8" })).toMatch(/PET_NPROC_PER_NODE=8/);
    expect(readLaunchEnvironment({ ...pet, PET_NNODES: "1" })).toBeUndefined();
    expect(readLaunchEnvironment({ ...pet, ...TORCHRUN })).toMatchObject({ rank: 5 });
  });
});

describe("a process of its own", () => {
  it.each([{}, { MASTER_ADDR: "somewhere", MASTER_PORT: "1" }, { RANK: "", WORLD_SIZE: "" }, { SLURM_JOB_ID: "1" }])(
    "is one with %j",
    (env) => {
      expect(readLaunchEnvironment(env)).toBeUndefined();
    },
  );

  it("is none with half of a launcher's variables", () => {
    expect(refusal({ LOCAL_RANK: "0" })).toMatch(/LOCAL_RANK=0, but RANK is not set/);
    expect(refusal({ LOCAL_WORLD_SIZE: "2" })).toMatch(/LOCAL_WORLD_SIZE=2, but RANK is not set/);
  });
});
