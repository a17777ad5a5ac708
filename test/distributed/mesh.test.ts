import { describe, expect, it } from "vitest";
import { DeviceMesh, HashStore, ProcessGroup } from "../../lib/distributed/index.js";
import * as torch from "../../lib/torch/index.js";

/** Ranks that are all in this process: what they do together they do by promises. */
async function ranks<T>(size: number, body: (world: ProcessGroup) => Promise<T>): Promise<T[]> {
  using store = new HashStore();
  return await Promise.all(
    Array.from({ length: size }, async (_, rank) => {
      const world = await ProcessGroup.create(store, rank, size, { timeout: 20 });
      try {
        const result = await body(world);
        await world.barrier(); // who leaves while another still connects breaks that one's connection
        return result;
      } finally {
        await world.destroy();
      }
    }),
  );
}

/** The sum of the members' ranks in the world. */
async function sumIn(group: ProcessGroup | null, value: number): Promise<number> {
  if (!group) return value;
  return await torch.scope(async () => {
    const sum = torch.tensor([value]);
    await group.allReduce(sum);
    return sum.item();
  });
}

describe("a mesh", () => {
  it("has a group along each dimension, in the order of coordinates", async () => {
    const found = await ranks(6, async (world) => {
      const mesh = await DeviceMesh.create(world, { replicate: 3, shard: 2 });
      const of = (name: "replicate" | "shard") => mesh.group(name)?.ranks;
      const sums = [await sumIn(mesh.group("replicate"), world.rank), await sumIn(mesh.group("shard"), world.rank)];
      const result = {
        place: [mesh.rank("replicate"), mesh.rank("shard")],
        sizes: [mesh.size("replicate"), mesh.size("shard")],
        own: [mesh.group("replicate")?.rank, mesh.group("shard")?.rank],
        groups: [of("replicate"), of("shard")],
        sums,
      };
      await mesh.destroy();
      return result;
    });
    // As torch.arange(6).view(3, 2).
    for (const [rank, { place, sizes, own, groups, sums }] of found.entries()) {
      const [row, column] = [Math.floor(rank / 2), rank % 2];
      expect(place).toEqual([row, column]);
      expect(own).toEqual([row, column]);
      expect(sizes).toEqual([3, 2]);
      expect(groups).toEqual([
        [column, column + 2, column + 4],
        [2 * row, 2 * row + 1],
      ]);
      expect(sums).toEqual([3 * column + 6, 4 * row + 1]);
    }
  });

  it("flattens dimensions, also ones that are not neighbours, in row-major order whatever the order asked", async () => {
    const found = await ranks(8, async (world) => {
      const mesh = await DeviceMesh.create(world, { a: 2, b: 2, c: 2 });
      const outer = await mesh.flatten(["c", "a"]);
      const again = await mesh.flatten(["a", "c"]);
      const all = await mesh.flatten(["a", "b", "c"]);
      const result = {
        ranks: outer?.ranks,
        rank: outer?.rank,
        place: mesh.place(["a", "c"]),
        nothing: mesh.place([]),
        isSame: outer === again,
        all: all?.ranks,
        sum: await sumIn(outer, world.rank),
        groups: mesh.groups().length,
      };
      await mesh.destroy();
      return { ...result, left: mesh.groups().length };
    });
    for (const [rank, mesh] of found.entries()) {
      const b = (rank >> 1) & 1;
      const members = [0, 1, 4, 5].map((member) => member + 2 * b);
      const place = members.indexOf(rank);
      expect(mesh).toEqual({
        ranks: members,
        rank: place,
        place: { rank: place, size: 4 },
        nothing: { rank: 0, size: 1 },
        isSame: true,
        all: [0, 1, 2, 3, 4, 5, 6, 7],
        sum: 10 + 8 * b,
        groups: 5,
        left: 0,
      });
    }
  });

  it("makes no group of one, and lies over a group's own ranks", async () => {
    const found = await ranks(3, async (world) => {
      if (world.rank === 1) return undefined;
      const pair = await world.subgroup([2, 0]);
      const mesh = await DeviceMesh.create(pair, { replicate: 1, shard: 2, tensor: 1 });
      const result = {
        replicate: mesh.group("replicate"),
        tensor: await mesh.flatten(["replicate", "tensor"]),
        shard: mesh.group("shard")?.ranks,
        rank: mesh.rank("shard"),
      };
      await mesh.group("shard")?.barrier();
      await pair.barrier();
      await mesh.destroy();
      await pair.destroy();
      return result;
    });
    const expected = { replicate: null, tensor: null, shard: [2, 0] };
    expect(found).toEqual([{ ...expected, rank: 1 }, undefined, { ...expected, rank: 0 }]);
  });

  it("refuses sizes that do not fit, and names it does not know", async () => {
    await ranks(2, async (world) => {
      const wrong: Record<string, number>[] = [
        { shard: 3 },
        { shard: 2, tensor: 2 },
        { shard: 0 },
        { shard: 0.5, tensor: 4 },
      ];
      for (const dimensions of wrong) {
        await expect(DeviceMesh.create(world, dimensions)).rejects.toMatchObject({
          code: "DISTRIBUTED_ARGUMENT",
          message: expect.stringMatching(/^the mesh shard .* the world has 2 ranks$/),
        });
      }
      const mesh = await DeviceMesh.create(world, { shard: 2 });
      const unknown = expect.objectContaining({
        code: "DISTRIBUTED_ARGUMENT",
        message: expect.stringContaining("no dimension 'x'"),
      });
      const x = "x" as never;
      for (const ask of [() => mesh.group(x), () => mesh.rank(x), () => mesh.size(x)])
        expect(ask).toThrowError(unknown);
      await expect(mesh.flatten(["x" as never])).rejects.toEqual(unknown);
      await mesh.group("shard")?.barrier();
      await mesh.destroy();
    });
  });
});
