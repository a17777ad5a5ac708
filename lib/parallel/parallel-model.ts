import {
  abortProcessGroup,
  DataParallel,
  DeviceMesh,
  DistributedError,
  type LocalTensor,
  type ProcessGroup,
  type World,
  wholeTensor,
} from "../distributed/index.js";
import type { Decoder } from "../model/index.js";
import { checkpoint, gradNorm, wrapForward } from "../nn/index.js";
import * as torch from "../torch/index.js";
import { contextParallel } from "./context/index.js";
import type { ParallelSettings } from "./options.js";
import { type TensorParallel, tensorParallel } from "./tensor.js";

export type MeshDimension = "replicate" | "shard" | "context" | "tensor";
/** Size of each mesh dimension, outermost first. */
export type MeshShape = Record<MeshDimension, number>;

/**
 * The mesh for these options and number of processes. `replicate` defaults to the remaining factor.
 *
 * @throws DistributedError DISTRIBUTED_ARGUMENT if the sizes do not divide the number of processes; the message says
 *   which numbers are valid
 */
export function meshShape(settings: ParallelSettings, worldSize: number): MeshShape {
  const { context, tensor, shard = 1 } = settings;
  const inner = shard * context * tensor;
  const replicate = settings.replicate ?? worldSize / inner;
  if (!Number.isInteger(replicate) || replicate * inner !== worldSize) {
    const asked = `shard ${shard} x context ${context} x tensor ${tensor}`;
    const whole = settings.replicate === undefined ? asked : `replicate ${settings.replicate} x ${asked}`;
    const message = `parallel: ${whole} does not fit ${worldSize} processes`;
    throw new DistributedError("DISTRIBUTED_ARGUMENT", `${message}; start a multiple of ${inner}, or change the sizes`);
  }
  // the innermost dimension varies fastest, so that the ranks that communicate most are adjacent
  return { replicate, shard, context, tensor };
}

/** The range [from, to) of `total` items for the `index`-th of `parts` nearly equal parts. */
export function shareOf(total: number, index: number, parts: number): { from: number; to: number } {
  return { from: Math.floor((total * index) / parts), to: Math.floor((total * (index + 1)) / parts) };
}

type Tensor = torch.Tensor;

/**
 * A decoder distributed over the processes of a run, with all communication of the training loop. With a single process
 * the methods work without communication.
 */
export class ParallelModel {
  readonly model: Decoder;
  readonly world: World | undefined;
  readonly shape: MeshShape;
  /** This process's share of every batch: the `data.rank`-th of `data.size`. */
  readonly data: { rank: number; size: number };
  /**
   * Whether this process's counts are included in sums over all processes: true for one of the ranks that share the
   * rows of a batch.
   */
  readonly counts: boolean;
  /**
   * Whether values that are complete on this process are included in {@link sumLosses}: true for one of the ranks that
   * share sequences.
   */
  readonly countsInLosses: boolean;
  readonly #mesh: DeviceMesh<MeshDimension> | undefined;
  readonly #groups: Groups;
  #tensorParallel: TensorParallel | undefined;
  #dataParallel: DataParallel | undefined;
  /** Functions that remove the model's wrappers, innermost first. */
  readonly #layers: (() => void)[] = [];

  private constructor(
    model: Decoder,
    world: World | undefined,
    shape: MeshShape,
    mesh?: DeviceMesh<MeshDimension>,
    groups?: Groups,
  ) {
    this.model = model;
    this.world = world;
    this.shape = shape;
    this.#mesh = mesh;
    this.#groups = groups ?? { loss: null, shard: null, replicate: null };
    this.data = mesh?.place(["replicate", "shard"]) ?? { rank: 0, size: 1 };
    this.countsInLosses = mesh === undefined || mesh.rank("context") === 0;
    this.counts = this.countsInLosses && (mesh === undefined || mesh.rank("tensor") === 0);
  }

  /**
   * Distributes a decoder over a mesh. Its weights become those of rank 0; if the mesh splits them, this process keeps
   * its part. All processes make the same call.
   *
   * @throws DistributedError DISTRIBUTED_ARGUMENT if the options do not match the processes or the model
   */
  static async parallelize(
    model: Decoder,
    settings: ParallelSettings,
    world: World | undefined,
  ): Promise<ParallelModel> {
    const shape = meshShape(settings, world?.size ?? 1);
    const mesh = world && (await DeviceMesh.create(world.group, shape));
    const laid = new ParallelModel(model, world, shape, mesh, mesh && (await makeGroups(mesh)));
    try {
      await laid.#parallelize(settings);
    } catch (error) {
      for (const remove of laid.#layers.reverse()) remove();
      for (const group of mesh?.groups() ?? []) group.abort();
      throw error;
    }
    return laid;
  }

  async #parallelize(settings: ParallelSettings): Promise<void> {
    const { model } = this;
    const mesh = this.#mesh;
    const tensor = mesh?.group("tensor");
    if (tensor) this.#tensorParallel = tensorParallel(model, tensor);
    await this.#broadcastWeights();
    for (const layer of checkpointed(model, settings.activationCheckpointing)) {
      this.#layers.push(wrapForward(layer, (forward) => checkpoint(forward)));
    }
    if (!mesh) return;
    const { shard, replicate } = this.#groups;
    this.#dataParallel = new DataParallel(model, model.layers, {
      shard,
      replicate,
      ...(settings.gatherDtype !== "auto" && { gatherDtype: settings.gatherDtype }),
      reshardAfterForward: settings.reshardAfterForward,
      ...(settings.bucketMegabytes !== undefined && { bucketBytes: settings.bucketMegabytes * 2 ** 20 }),
    });
    this.#layers.push(() => this.#dataParallel?.dispose());
    const context = mesh.group("context");
    if (context) {
      const split = contextParallel(model, context);
      this.#layers.push(() => split.remove());
    }
  }

  async #broadcastWeights(): Promise<void> {
    const { loss: copies } = this.#groups;
    if (!copies) return;
    for (const parameter of this.model.parameters()) {
      const memory = torch.keep(parameter.detach());
      await copies.broadcast(memory);
      memory.dispose();
    }
  }

  /** Whether this process writes logs and the common files of checkpoints. */
  get isMain(): boolean {
    return this.world === undefined || this.world.rank === 0;
  }

  /** Description for the events of a run; undefined in a run of one process. */
  get info(): (MeshShape & { worldSize: number; backend: string }) | undefined {
    return this.world && { ...this.shape, worldSize: this.world.size, backend: this.world.group.backend };
  }

  /**
   * Backward pass of one micro-batch, overlapped with the communication of gradients. `isLast`: whether it is the last
   * one of the step.
   */
  backward(loss: Tensor, { isLast }: { isLast: boolean }): void {
    if (this.#dataParallel) this.#dataParallel.backward(loss, { isLast });
    else if (loss.requiresGrad) loss.backward();
  }

  /** Waits for the gradients of the step, which are then in this process's parameters, summed over all processes. */
  finishGradients(): void {
    this.#dataParallel?.finish();
  }

  /**
   * The L2 norm of the whole model's gradient, a float32 scalar; each parameter counts once, however it is distributed.
   */
  gradNorm(): Tensor {
    const parameters = this.model.parameters();
    const tensor = this.#mesh?.group("tensor") ?? null;
    const groups = [this.#groups.shard, tensor].filter((group) => group !== null);
    if (groups.length === 0) return gradNorm(parameters);
    return torch.scope(() =>
      torch.noGrad(() => {
        const square = torch.zeros([], { device: this.model.device });
        for (const [copies, list] of this.#byCopies()) square.add_(gradNorm(list).square(), { alpha: 1 / copies });
        for (const group of groups) group.allReduce(square).wait();
        return square.sqrt();
      }),
    );
  }

  /** Parameters grouped by the number of tensor-parallel ranks with the same copy, so that each element counts once. */
  #byCopies(): Map<number, Tensor[]> {
    const lists = new Map<number, Tensor[]>();
    for (const { name, tensor } of this.local()) {
      const copies = this.#tensorParallel?.copies(name) ?? 1;
      lists.set(copies, [...(lists.get(copies) ?? []), tensor]);
    }
    return lists;
  }

  /** Sums values, in place, over the processes whose losses are parts of one sum. */
  sumLosses(numbers: Tensor): void {
    this.#groups.loss?.allReduce(numbers).wait();
  }

  /**
   * Gathers a small JSON value from every process, by rank.
   *
   * @param topic name of the exchange, the same on all processes
   * @throws DistributedError DISTRIBUTED_STATE if another process is at an exchange with another topic
   */
  async exchange<T>(topic: string, value: T): Promise<T[]> {
    if (!this.world) return [value];
    const all = await this.world.control.allGatherObject({ topic, value });
    const other = all.findIndex((each) => each.topic !== topic);
    if (other < 0) return all.map((each) => each.value);
    const message = `rank ${other} is at '${all[other].topic}', rank ${this.world.rank} at '${topic}'`;
    const remedy = "all processes of a run must read its events to the end or stop at the same event";
    throw new DistributedError("DISTRIBUTED_STATE", `${message}: ${remedy}`);
  }

  /** Sets the timeout of collectives, in seconds. */
  setTimeout(seconds: number): void {
    if (!this.world || !this.#mesh) return;
    const groups = [this.world.group, this.world.control, ...this.#mesh.groups()];
    for (const group of groups) if (group.timeout !== seconds) group.timeout = seconds;
  }

  /** Frees gathered parameters after a forward pass without a backward pass. */
  release(): void {
    this.#dataParallel?.release();
  }

  /** This process's part of every parameter, named as in the whole model. */
  local(): LocalTensor[] {
    const parts =
      this.#dataParallel?.local() ?? Array.from(this.model.namedParameters(), ([name, t]) => wholeTensor(name, t));
    return this.#tensorParallel?.compose(parts) ?? parts;
  }

  /** This process's parts of an optimizer's tensors, `<parameter>.<slot>`, which are split as their parameters are. */
  localState(tensors: Readonly<Record<string, Tensor>>): LocalTensor[] {
    const parameters = new Map(this.local().map((local) => [local.name, local]));
    return Object.entries(tensors).map(([name, tensor]) => {
      const parameter = parameters.get(name.slice(0, name.lastIndexOf(".")));
      if (parameter && parameter.slice.size.join() === tensor.shape.join()) return { ...parameter, name, tensor };
      return { ...wholeTensor(name, tensor), owned: this.isMain };
    });
  }

  /** Number of elements of the whole model's parameters. */
  numParameters(): number {
    return this.local().reduce((sum, { slice }) => sum + slice.shape.reduce((a, b) => a * b, 1), 0);
  }

  /** Whether this process holds the whole model between steps. */
  get isWhole(): boolean {
    return this.shape.shard === 1 && this.shape.tensor === 1;
  }

  /**
   * Undoes the distribution. A model that is whole on every process can be used as before. The parts of a split model
   * are freed; its weights are in the checkpoint.
   */
  async dispose(): Promise<void> {
    for (const remove of this.#layers.reverse()) remove();
    if (!this.isWhole) this.model.dispose();
    await this.#mesh?.destroy();
  }

  /** Aborts all process groups after a failure, without waiting for other processes. */
  abort(): void {
    for (const group of this.#mesh?.groups() ?? []) group.abort();
    if (this.world) abortProcessGroup();
  }
}

/** Process groups by purpose; null for a group of this process only. */
interface Groups {
  /** Losses and gradients are summed over this group, whose initial weights are equal: all dimensions except tensor. */
  loss: ProcessGroup | null;
  shard: ProcessGroup | null;
  replicate: ProcessGroup | null;
}

async function makeGroups(mesh: DeviceMesh<MeshDimension>): Promise<Groups> {
  const loss = await mesh.flatten(["replicate", "shard", "context"]);
  // Ranks that share sequences have the same weights, so sharded weights are sharded over them, too.
  const sharded = mesh.size("shard") > 1;
  const shard = sharded ? await mesh.flatten(["shard", "context"]) : null;
  const replicate = sharded ? mesh.group("replicate") : loss;
  return { loss, shard, replicate };
}

function checkpointed(model: Decoder, choice: ParallelSettings["activationCheckpointing"]): Decoder["layers"] {
  if (choice === "none") return [];
  const every = choice === "full" ? 1 : choice;
  return model.layers.filter((_, i) => i % every === 0);
}
