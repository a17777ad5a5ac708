import { DistributedError } from "./errors.js";
import type { ProcessGroup } from "./process-group.js";

/**
 * The ranks of a group as a grid with named dimensions, outermost first: torch.distributed.DeviceMesh. Rank r has the
 * coordinates of the row-major index r, so that neighbors in the last dimension have adjacent ranks.
 */
export class DeviceMesh<Name extends string = string> {
  readonly names: readonly Name[];
  readonly shape: readonly number[];
  readonly #world: ProcessGroup;
  readonly #coordinates: readonly number[];
  readonly #groups = new Map<string, ProcessGroup | null>();

  private constructor(world: ProcessGroup, names: readonly Name[], shape: readonly number[]) {
    this.#world = world;
    this.names = names;
    this.shape = shape;
    this.#coordinates = coordinatesOf(world.rank, shape);
  }

  /**
   * Arranges a group as a grid, and creates a subgroup for every dimension that is larger than 1. All members make the
   * same call.
   *
   * @param dimensions sizes by name, outermost first; their product must be the group's size
   * @throws DistributedError DISTRIBUTED_ARGUMENT
   */
  static async create<Name extends string>(
    world: ProcessGroup,
    dimensions: Record<Name, number>,
  ): Promise<DeviceMesh<Name>> {
    const names = Object.keys(dimensions) as Name[];
    const shape = names.map((name) => dimensions[name]);
    const product = shape.reduce((a, b) => a * b, 1);
    if (shape.some((size) => !Number.isInteger(size) || size < 1) || product !== world.size) {
      const shown = names.map((name) => `${name} ${dimensions[name]}`).join(" x ");
      const message = `the mesh ${shown} has ${product} places, but the world has ${world.size} ranks`;
      throw new DistributedError("DISTRIBUTED_ARGUMENT", message);
    }
    const mesh = new DeviceMesh(world, names, shape);
    for (const name of names) await mesh.flatten([name]);
    return mesh;
  }

  size(name: Name): number {
    return this.shape[this.#indexOf(name)];
  }

  /** This process's coordinate in a dimension. */
  rank(name: Name): number {
    return this.#coordinates[this.#indexOf(name)];
  }

  /** The ranks that differ from this one in this dimension only; null if its size is 1. */
  group(name: Name): ProcessGroup | null {
    this.#indexOf(name);
    return this.#groups.get(name) ?? null;
  }

  /**
   * The ranks that differ from this one in these dimensions only, as one group in row-major order; null if this is the
   * only one. All ranks of the mesh must make the same call. Repeated calls return the same group.
   */
  async flatten(names: readonly Name[]): Promise<ProcessGroup | null> {
    const dims = names.map((name) => this.#indexOf(name)).sort((a, b) => a - b);
    const key = dims.map((dim) => this.names[dim]).join("+");
    const known = this.#groups.get(key);
    if (known !== undefined) return known;
    const free = dims.map((dim) => this.shape[dim]);
    const count = free.reduce((a, b) => a * b, 1);
    const ranks = Array.from({ length: count }, (_, index) => {
      const place = [...this.#coordinates];
      for (const [i, coordinate] of coordinatesOf(index, free).entries()) place[dims[i]] = coordinate;
      return place.reduce((rank, coordinate, dim) => rank * this.shape[dim] + coordinate, 0);
    });
    const group = count === 1 ? null : await this.#world.subgroup(ranks, { name: key });
    this.#groups.set(key, group);
    return group;
  }

  /** This process's rank in, and the size of, the group of {@link flatten}, without creating it. */
  place(names: readonly Name[]): { rank: number; size: number } {
    const dims = names.map((name) => this.#indexOf(name)).sort((a, b) => a - b);
    return {
      rank: dims.reduce((rank, dim) => rank * this.shape[dim] + this.#coordinates[dim], 0),
      size: dims.reduce((size, dim) => size * this.shape[dim], 1),
    };
  }

  /** All groups that were created. */
  groups(): ProcessGroup[] {
    return [...this.#groups.values()].filter((group) => group !== null);
  }

  async destroy(): Promise<void> {
    for (const group of this.groups()) await group.destroy();
    this.#groups.clear();
  }

  #indexOf(name: Name): number {
    const index = this.names.indexOf(name);
    if (index < 0) {
      throw new DistributedError(
        "DISTRIBUTED_ARGUMENT",
        `the mesh has no dimension '${name}': ${this.names.join(", ")}`,
      );
    }
    return index;
  }
}

function coordinatesOf(index: number, shape: readonly number[]): number[] {
  const coordinates: number[] = [];
  let rest = index;
  for (let dim = shape.length - 1; dim >= 0; dim--) {
    coordinates[dim] = rest % shape[dim];
    rest = Math.floor(rest / shape[dim]);
  }
  return coordinates;
}
