import type { MeshInfo, RunInfo } from "../events.js";

/**
 * What a run was made with, as flat names and values: what W&B calls config and TensorBoard hparams. Where it runs and
 * when it began are left out, for they differ from run to run without a choice.
 */
export function runSettings(run: RunInfo): Record<string, string | number> {
  const flat: Record<string, string | number> = {
    model: run.model,
    parameters: run.parameters,
    device: run.device,
    seed: run.seed,
  };
  for (const [name, value] of Object.entries(run.parallel ?? {})) flat[`parallel/${name}`] = value;
  for (const { name, ...facts } of run.stages) {
    for (const [key, value] of Object.entries(facts)) {
      if (value !== null) flat[`stages/${name}/${key}`] = value;
    }
  }
  for (const [name, version] of Object.entries(run.versions)) flat[`versions/${name}`] = version;
  return flat;
}

/** "replicate 2 x shard 4, 8 ranks (nccl)"; dimensions of size one are left out. */
export function meshText({ worldSize, backend, ...mesh }: MeshInfo): string {
  const names = ["replicate", "shard", "context", "tensor"] as const;
  const parts = names.filter((name) => mesh[name] > 1).map((name) => `${name} ${mesh[name]}`);
  const ranks = `${worldSize} ${worldSize === 1 ? "rank" : "ranks"} (${backend})`;
  return parts.length === 0 ? ranks : `${parts.join(" x ")}, ${ranks}`;
}
