import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { parseAllDocuments } from "yaml";
import type { LaunchEnvironment } from "../../lib/distributed/launch-environment/variables.js";
import { root, run } from "../cli/support.js";
import { Launcher, launch, programFolder } from "./support.js";

const folder = programFolder();
const CLUSTER = join(root, "examples", "cluster");
const BIN = join(root, "bin", "diffcoder.mjs");
const has = (command: string, ...args: string[]) => spawnSync(command, args, { stdio: "ignore" }).status === 0;

/** A program that reads who it is, meets the others at the master's port, and prints what it read. */
let meet: string;
beforeAll(() => {
  meet = folder.file(
    "meet.mjs",
    `import { createServer, connect } from "node:net";
     import { readLaunchEnvironment } from ${JSON.stringify(join(root, "dist", "distributed", "launch-environment.js"))};
     const read = readLaunchEnvironment();
     const { rank, worldSize, masterAddr: host, masterPort: port, storeIsHosted } = read;
     const done = () => console.log("met " + JSON.stringify({ ...read, args: process.argv.slice(2) }));
     const call = () => {
       const socket = connect({ host, port }, done);
       socket.on("error", () => setTimeout(call, 50));
       socket.unref();
     };
     if (storeIsHosted || rank > 0) call();
     else {
       let missing = worldSize - 1;
       const server = createServer(() => --missing === 0 && (done(), server.close()));
       server.listen(port, host);
     }`,
  );
});

interface Met extends LaunchEnvironment {
  args: string[];
}

/** What the programs printed, by rank. */
function met(output: string): Met[] {
  const all = [...output.matchAll(/met (\{.*\})$/gm)].map(([, text]) => JSON.parse(text) as Met);
  return all.sort((a, b) => a.rank - b.rank);
}

describe("SLURM", () => {
  /** A folder with `srun` and `scontrol` that do on this machine what SLURM does, as far as a program sees it. */
  function slurm(): { env: NodeJS.ProcessEnv; calls(): string } {
    const bin = mkdtempSync(join(folder.path, "slurm-"));
    const command = (name: string, text: string) => {
      const path = folder.file(join(bin.slice(folder.path.length + 1), name), text);
      chmodSync(path, 0o755);
      return path;
    };
    command(
      "srun",
      `#!/bin/bash
       while [[ $1 == --* ]]; do shift; done
       export SLURM_STEP_ID=0 SLURM_STEPID=0 SLURM_STEP_NUM_TASKS=$SLURM_NTASKS SLURM_STEP_NUM_NODES=1 SLURM_NNODES=1
       export SLURM_STEP_NODELIST=$SLURM_JOB_NODELIST SLURM_STEP_TASKS_PER_NODE=$SLURM_NTASKS SLURM_NODEID=0
       for ((task = 0; task < SLURM_NTASKS; task++)); do
         SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks+=($!)
       done
       for task in "\${tasks[@]}"; do wait "$task" || code=$?; done
       exit "\${code:-0}"`,
    );
    command("scontrol", `#!/bin/sh\necho "scontrol $*" >> ${join(bin, "calls")}\n`);
    const diffcoder = command(
      "diffcoder",
      `#!/bin/sh\n[ "$FAIL" = "" ] || exit 9\nexec ${process.execPath} ${meet} "$@"\n`,
    );
    return {
      env: {
        ...{ PATH: `${bin}:${process.env.PATH}`, DIFFCODER: diffcoder, SLURM_JOB_ID: "4242", SLURM_JOB_NAME: "test" },
        ...{ SLURM_NTASKS: "2", SLURM_JOB_NODELIST: "gpu[07-08]", SLURM_CPUS_PER_TASK: "3", SLURM_RESTART_COUNT: "2" },
        SLURM_PROCID: "0", // as it is set in a batch script
      },
      calls: () => (existsSync(join(bin, "calls")) ? readFileSync(join(bin, "calls"), "utf8") : ""),
    };
  }
  const SBATCH = join(CLUSTER, "train.sbatch");
  const batch = (env: NodeJS.ProcessEnv, ...args: string[]) =>
    run("bash", [SBATCH, ...args], { cwd: folder.path, env });

  it("the batch file is one", async () => {
    expect((await run("bash", ["-n", SBATCH])).stderr).toBe("");
    const options = readFileSync(SBATCH, "utf8").match(/^#SBATCH .*$/gm) ?? [];
    const wanted = ["--nodes=2", "--ntasks-per-node=8", "--signal=TERM@120", "--requeue", "--open-mode=append"];
    for (const option of wanted) expect(options).toContain(`#SBATCH ${option}`);
    const { code, stderr } = await batch(slurm().env);
    expect([code, stderr]).toEqual([1, expect.stringMatching(/a curriculum is missing/)]);
  });

  it("it starts the tasks, which know who they are and meet; saved is not done, and is queued again", async () => {
    const { env, calls } = slurm();
    const { code, stdout, stderr } = await batch(env, "curriculum.yaml", "runs/a");
    expect(code, stderr).toBe(0);
    const tasks = met(stdout);
    expect(tasks).toHaveLength(2);
    for (const [rank, task] of tasks.entries()) {
      expect(task).toMatchObject({
        rank,
        localRank: rank,
        worldSize: 2,
        localWorldSize: 2,
        launcher: "slurm",
        restartCount: 2,
      });
      expect(task.args).toEqual(["train", "curriculum.yaml", "--output-dir", "runs/a", "--resume"]);
    }
    expect(calls()).toBe("scontrol requeue 4242\n");
  });

  it("it ends when the last checkpoint is there, and when a task has failed", async () => {
    const done = slurm();
    mkdirSync(join(folder.path, "runs", "b", "checkpoints", "final"), { recursive: true });
    expect((await batch(done.env, "curriculum.yaml", "runs/b")).code).toBe(0);
    const failed = slurm();
    expect((await batch({ ...failed.env, FAIL: "1" }, "curriculum.yaml", "runs/c")).code).toBe(9);
    expect(done.calls() + failed.calls()).toBe("");
  });
});

describe("Kubernetes", () => {
  type Fields = Record<string, unknown>;
  const documents = (name: string): Fields[] =>
    parseAllDocuments(readFileSync(join(CLUSTER, name), "utf8")).map((document) => {
      expect(document.errors).toEqual([]);
      return document.toJS() as Fields;
    });
  /** A field by its path, such as "spec.template". */
  const at = (value: unknown, path: string): unknown =>
    path.split(".").reduce((inner, key) => (inner as Fields)?.[key], value);

  /** Runs what a container runs, with a program of ours in the place of the curriculum. */
  async function start(container: Fields, env: NodeJS.ProcessEnv) {
    const [command, ...words] = [...(container.command as string[]), ...(container.args as string[])];
    expect(command).toBe("node_modules/.bin/diffcoder"); // npx would end at SIGTERM
    expect(words.shift()).toBe("launch");
    const file = words.indexOf("curriculum.yaml");
    const options = words.slice(0, file).filter((word) => !word.startsWith("--expect="));
    expect(words.slice(file + 1)).toEqual(["--output-dir=/runs/mine", "--resume"]);
    const print = ["--", process.execPath, "-p", "JSON.stringify(process.env)"];
    const { code, lines, stderr } = await launch([...options, ...print], {
      env: { CUDA_VISIBLE_DEVICES: "0,1", ...env },
    });
    expect(code, stderr).toBe(0);
    return lines.map((line) => JSON.parse(line.slice(line.indexOf("{"))) as NodeJS.ProcessEnv);
  }

  it("the indexed Job's pods find each other, and their processes know who they are", async () => {
    const [service, job] = documents("kubernetes-job.yaml");
    expect([service.kind, job.kind, job.apiVersion]).toEqual(["Service", "Job", "batch/v1"]);
    const name = at(job, "metadata.name");
    const subdomain = at(service, "metadata.name");
    expect(at(service, "spec.clusterIP")).toBe("None");
    expect(at(service, "spec.publishNotReadyAddresses")).toBe(true);
    expect(at(service, "spec.selector")).toEqual({ "batch.kubernetes.io/job-name": name });
    expect(at(job, "spec.completionMode")).toBe("Indexed");
    expect(at(job, "spec.completions")).toBe(at(job, "spec.parallelism"));
    const pod = at(job, "spec.template.spec") as Fields;
    expect(pod.subdomain).toBe(subdomain);
    expect(pod.restartPolicy).toBe("Never"); // as podFailurePolicy wants it
    expect(pod.terminationGracePeriodSeconds).toBeGreaterThanOrEqual(120);
    const [container] = pod.containers as Fields[];
    const rules = at(job, "spec.podFailurePolicy.rules") as Fields[];
    expect(rules.map((rule) => rule.action)).toEqual(["Ignore", "Ignore"]);
    expect(at(rules[1], "onExitCodes")).toEqual({ containerName: container.name, operator: "In", values: [75] });
    expect(container.args).toContain("--expect=/runs/mine/checkpoints/final");
    const mounts = (container.volumeMounts as Fields[]).map((mount) => mount.name).sort();
    expect((pod.volumes as Fields[]).map((volume) => volume.name).sort()).toEqual(mounts);

    const index = "metadata.annotations['batch.kubernetes.io/job-completion-index']";
    const env = Object.fromEntries(
      (container.env as Fields[]).map((entry) => {
        if (entry.value === undefined) expect(at(entry, "valueFrom.fieldRef.fieldPath")).toBe(index);
        return [entry.name, entry.value ?? "1"]; // in the second pod
      }),
    );
    expect(env.PET_NNODES).toBe(String(at(job, "spec.completions")));
    expect(env.PET_MASTER_ADDR).toBe(`${name}-0.${subdomain}`);
    const ranks = await start(container, { ...env, JOB_COMPLETION_INDEX: "1" });
    expect(ranks.map(({ RANK }) => RANK).sort()).toEqual(["2", "3"]);
    for (const rank of ranks) {
      expect(rank).toMatchObject({
        WORLD_SIZE: "4",
        MASTER_ADDR: "diffcoder-0.diffcoder",
        MASTER_PORT: "29500",
        GROUP_RANK: "1",
      });
    }
  });

  it("the TrainJob runs on its runtime, with the variables that Trainer sets", async () => {
    const [runtime, job] = documents("trainjob.yaml");
    for (const { apiVersion } of [runtime, job]) expect(apiVersion).toBe("trainer.kubeflow.org/v1alpha1");
    expect(at(job, "spec.runtimeRef")).toEqual({
      apiGroup: "trainer.kubeflow.org",
      kind: runtime.kind,
      name: at(runtime, "metadata.name"),
    });
    const [replicated] = at(runtime, "spec.template.spec.replicatedJobs") as Fields[];
    expect(replicated.name).toBe("node");
    expect(at(replicated, "template.metadata.labels")).toEqual({
      "trainer.kubeflow.org/trainjob-ancestor-step": "trainer",
    });
    const pod = at(replicated, "template.spec.template.spec") as Fields;
    const [container] = pod.containers as Fields[];
    expect(container.name).toBe("node");
    expect(at(runtime, "spec.mlPolicy.torch.numProcPerNode")).toBe("auto");
    expect(container.env).toBeUndefined(); // Trainer refuses a TrainJob that sets PET_ variables itself

    const name = at(job, "metadata.name");
    const env = {
      PET_NNODES: String(at(job, "spec.trainer.numNodes")),
      PET_NPROC_PER_NODE: "auto",
      PET_NODE_RANK: "0",
    };
    const master = { PET_MASTER_ADDR: `${name}-node-0-0.${name}`, PET_MASTER_PORT: "29500" };
    const ranks = await start({ ...container, args: at(job, "spec.trainer.args") }, { ...env, ...master });
    expect(ranks.map(({ RANK }) => RANK).sort()).toEqual(["0", "1"]);
    for (const rank of ranks) expect(rank).toMatchObject({ WORLD_SIZE: "4", MASTER_ADDR: "mine-node-0-0.mine" });
  });
});

const python = process.env.DIFFCODER_PYTHON ?? "python3";
const hasTorchrun = has(
  python,
  "-c",
  "import importlib.util as i, sys; sys.exit(not (i.find_spec('torch') and i.find_spec('torch.distributed.run')))",
);

describe.skipIf(!hasTorchrun)("torchrun", () => {
  it("runs a program that knows it", async () => {
    const options = ["--standalone", "--no-python", "--nproc-per-node", "2", "--max-restarts", "3"];
    const words = ["-m", "torch.distributed.run", ...options, process.execPath, meet, "--some", "words"];
    const { code, stdout, stderr } = await run(python, words);
    expect(code, stderr).toBe(0);
    const ranks = met(stdout);
    expect(ranks.map(({ rank, localRank }) => [rank, localRank])).toEqual([
      [0, 0],
      [1, 1],
    ]);
    for (const rank of ranks) {
      expect(rank).toMatchObject({ worldSize: 2, localWorldSize: 2, launcher: "torchrun", storeIsHosted: true });
      expect(rank).toMatchObject({ restartCount: 0, maxRestarts: 3, args: ["--some", "words"] });
    }
  });
});

// Two network namespaces are two hosts to a program: each has its own addresses, and a cable lies between them.
const spaces = [0, 1].map((node) => `diffcoder-${process.pid}-${node}`);
const address = (node: number) => `10.213.77.${node + 1}`;
const canMakeHosts = has("ip", "netns", "add", `${spaces[0]}-try`) && has("ip", "netns", "del", `${spaces[0]}-try`);

describe.skipIf(!canMakeHosts)("two hosts", () => {
  it("with a launcher each are one job", async () => {
    const ip = (...words: string[]) => expect(has("ip", ...words), words.join(" ")).toBe(true);
    const cable = [0, 1].map((node) => `dc${process.pid % 100_000}-${node}`);
    try {
      for (const space of spaces) ip("netns", "add", space);
      ip("link", "add", cable[0], "netns", spaces[0], "type", "veth", "peer", "name", cable[1], "netns", spaces[1]);
      for (const [node, space] of spaces.entries()) {
        ip("-n", space, "addr", "add", `${address(node)}/24`, "dev", cable[node]);
        for (const device of ["lo", cable[node]]) ip("-n", space, "link", "set", device, "up");
      }
      const hosts = spaces.map((space, node) => {
        const command = ["ip", "netns", "exec", space, process.execPath, BIN, "launch"];
        const place = ["--nnodes", "2", "--node-rank", String(node), "--master-addr", address(0), "--nproc", "2"];
        return new Launcher([...place, "--", process.execPath, meet], { command });
      });
      expect(await Promise.all(hosts.map((host) => host.ended))).toEqual([0, 0]);
      const [first, second] = hosts.map((host) => met(host.stdout));
      expect(first.map(({ rank, localRank }) => [rank, localRank])).toEqual([
        [0, 0],
        [1, 1],
      ]);
      expect(second.map(({ rank, localRank }) => [rank, localRank])).toEqual([
        [2, 0],
        [3, 1],
      ]);
      for (const rank of [...first, ...second]) {
        expect(rank).toMatchObject({
          worldSize: 4,
          localWorldSize: 2,
          masterAddr: address(0),
          masterPort: 29500,
          launcher: "diffcoder",
        });
      }
    } finally {
      for (const space of spaces) has("ip", "netns", "del", space);
    }
  });
});
