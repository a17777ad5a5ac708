import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { TCPStore } from "../../lib/distributed/index.js";
import type { CollectivesResult, GoldenCase } from "./children/collectives.js";
import type { Failure } from "./children/trouble.js";
import { type Rank, type RankEnd, runRanks, startRanks } from "./support.js";

const golden = JSON.parse(
  readFileSync(new URL("../fixtures/collectives.json", import.meta.url), "utf8"),
) as GoldenCase[];

const runs = new Map<number, Promise<CollectivesResult[]>>();
/** What so many ranks found; each number of them runs once. */
function collectivesOf(size: number): Promise<CollectivesResult[]> {
  const args = [JSON.stringify(size === 3 ? golden : [])]; // PyTorch's results are those of three
  const run = runs.get(size) ?? runRanks<CollectivesResult>("collectives.ts", { size, args });
  runs.set(size, run);
  return run;
}

describe("PyTorch's result of", () => {
  it.each(Array.from(golden, (each, i) => ({ ...each, i, op: each.op ?? "" })))(
    "$collective $dtype $op",
    async ({ i, results }) => {
      const ranks = await collectivesOf(3);
      expect(ranks.map((rank) => rank.golden[i])).toEqual(results);
    },
  );
});

describe.each([2, 3])("the collectives of %i ranks", (size) => {
  let ranks: CollectivesResult[];
  beforeAll(async () => {
    ranks = await collectivesOf(size);
  });

  it("let the event loop go on while they are awaited, and can be waited for once or twice", () => {
    for (const [rank, { waiting }] of ranks.entries()) {
      const sum = (size * (size - 1)) / 2;
      expect(waiting).toMatchObject({ awaited: sum, source: -1, again: -1, x: [size ** 2, size ** 2], done: true });
      expect(waiting.doneWhileAwaited).toBe(false);
      if (rank === 0) expect(waiting.whileAwaited).toMatch(/^DISTRIBUTED_STATE: .*already awaited/);
      else expect(waiting.ticks).toBeGreaterThan(3); // rank 0 comes 0.3 s later
    }
  });

  it("may be waited for in any order", () => {
    const sum = (size * (size + 1)) / 2;
    const expected = Array.from({ length: 9 }, (_, i) => [sum * (i + 1), sum * (i + 1)]);
    for (const { inFlight } of ranks) expect(inFlight).toEqual(expected);
  });

  it("send messages, told apart by their tags, also from any rank", () => {
    for (const [rank, { messages }] of ranks.entries()) {
      const previous = (rank + size - 1) % size;
      expect(messages).toMatchObject({ a: Array(3).fill(previous), b: -previous || 0 });
    }
    const others = Array.from({ length: size - 1 }, (_, i) => [i + 1, (i + 1) * 10]);
    expect(ranks[0].messages.from).toEqual(others);
  });

  it("work in groups of some ranks, in those groups' own order", () => {
    const last = size - 1;
    for (const [rank, { subgroups }] of ranks.entries()) {
      expect(subgroups.outside).toMatch(/^DISTRIBUTED_ARGUMENT: subgroup/);
      if (!("gone" in subgroups)) continue;
      expect([0, last]).toContain(rank);
      expect(subgroups).toMatchObject({
        rank: rank === last ? 0 : 1,
        size: 2,
        ranks: [last, 0],
        names: [`[${last},0]`, `[${last},0]#1`],
        inner: [0, last],
        sum: 2 * (1 + size),
        own: 1,
      });
      expect(subgroups.gone).toMatch(/^DISTRIBUTED_STATE: .*was destroyed/);
    }
  });

  it("pass objects of any size, and what JSON makes of those it lacks", () => {
    for (const [rank, { objects }] of ranks.entries()) {
      expect(objects.gathered).not.toContain(false);
      expect(objects.broadcast).toEqual({ from: 1 });
      expect(objects.nothing).toEqual(Array(size).fill(null));
      expect(objects.functions).toEqual(Array(size).fill(null));
      const strange = { nan: null, infinite: null, date: "1970-01-01T00:00:00.000Z" };
      expect(objects.strange).toEqual(Array(size).fill(strange));
      expect(objects.outside).toMatch(/^DISTRIBUTED_ARGUMENT: broadcastObject/);
      if (rank > 0) continue;
      expect(objects.bigint).toMatch(/BigInt/);
      expect(objects.circular).toMatch(/circular/);
    }
  });

  it("refuse what cannot work, before anything is sent", () => {
    const expected: Record<string, RegExp> = {
      "not contiguous": /^TORCH_VALUE: allReduce .*contiguous/,
      "not contiguous in a list": /^TORCH_VALUE: allReduce .*contiguous/,
      "not contiguous to gather": /^TORCH_VALUE: allGather .*contiguous/,
      disposed: /^TORCH_DISPOSED/,
      "no tensors": /^DISTRIBUTED_ARGUMENT: allReduce: expected tensors of one dtype, got none/,
      "two dtypes": /^DISTRIBUTED_ARGUMENT: allReduce: .*float32 and float64/,
      "two dtypes to gather": /^DISTRIBUTED_ARGUMENT: allGather: .*float32 and int64/,
      int16: /^DISTRIBUTED_ARGUMENT: broadcast: gloo does not support int16/,
      "average of integers": /^DISTRIBUTED_ARGUMENT: allReduce: 'avg' is not defined for int64/,
      "average of booleans": /^DISTRIBUTED_ARGUMENT: reduceScatter: 'avg' is not defined for bool/,
      "bits of floats": /^DISTRIBUTED_ARGUMENT: reduce: 'bxor' is for integers/,
      "no such operation": /^TORCH_VALUE: allReduce .*one of sum, avg, .*not 'mean'/,
      "too small to gather": /^DISTRIBUTED_ARGUMENT: allGather: \d elements are not \d ranks times 2/,
      "too large to scatter": /^DISTRIBUTED_ARGUMENT: reduceScatter: \d elements/,
      "too few to gather": /^DISTRIBUTED_ARGUMENT: allGatherList: 1 tensors/,
      "unequal to gather": /^TORCH_ERROR: allGatherList .*invalid tensor size/,
      "too few to scatter": /^DISTRIBUTED_ARGUMENT: scatter: 0 tensors/,
      "no place to gather": /^DISTRIBUTED_ARGUMENT: gather: 0 tensors/,
      "uneven parts": /^DISTRIBUTED_ARGUMENT: allToAll: \d rows are not divisible/,
      "splits that do not add up": /^DISTRIBUTED_ARGUMENT: allToAll: inputSplits \[2/,
      "too few splits": /^DISTRIBUTED_ARGUMENT: allToAll: outputSplits \[\d\] are not/,
      "negative splits": /^DISTRIBUTED_ARGUMENT: allToAll: inputSplits \[-1/,
      "no such source": /^DISTRIBUTED_ARGUMENT: broadcast: rank \d does not exist in a group/,
      "no such destination": /^DISTRIBUTED_ARGUMENT: reduce: rank -1/,
      "half a rank": /^DISTRIBUTED_ARGUMENT: send: rank 0.5/,
      "to itself": /^DISTRIBUTED_ARGUMENT: send: rank \d is this process itself/,
      "from itself": /^DISTRIBUTED_ARGUMENT: recv: rank \d is this process itself/,
      "on another device": /^TORCH_ERROR: allReduce .*device type meta/,
      "a timeout of nothing": /^TORCH_VALUE: .*positive number of seconds/,
      "a subgroup of doubles": /^DISTRIBUTED_ARGUMENT: subgroup/,
      "a subgroup of strangers": /^DISTRIBUTED_ARGUMENT: subgroup/,
    };
    for (const { mistakes } of ranks) {
      expect(Object.keys(mistakes)).toEqual(Object.keys(expected));
      for (const [name, message] of Object.entries(expected)) expect(mistakes[name], name).toMatch(message);
    }
  });

  it("take empty tensors, scalars, leaves, booleans, lists, parts, and tensors that are disposed meanwhile", () => {
    const last = size - 1;
    for (const [rank, { edges }] of ranks.entries()) {
      expect(edges).toEqual({
        scalar: (size * (size + 1)) / 2,
        leaf: [[size, size], true],
        truth: [1, 0, 1], // a sum of booleans is one
        list: [Array(4).fill(last), [], [last + 0.5]],
        view: [0, 1, 2, 3, 4, 5].map((x) => (x === 2 || x === 3 ? size * x + (size * last) / 2 : x + rank)),
      });
    }
  });

  it("are counted: a ring's all-reduce sends 2 (n - 1) / n of the bytes, its all-gather n - 1 parts", () => {
    const bytes = (2 * 12 * (size - 1)) / size + 12 * (size - 1);
    for (const { counted } of ranks) expect(counted).toEqual({ calls: 2, bytes });
  });
});

/** Runs a scenario of trouble.ts, and gives how each rank ended and how many seconds after the first. */
async function trouble<T>(
  name: string,
  { size = 2, exit = "0", env = {} }: { size?: number; exit?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<(RankEnd<T> & { after: number })[]> {
  return await endsOf(await startRanks<T>("trouble.ts", { size, args: [name, exit], env }));
}

async function endsOf<T>(ranks: readonly Rank<T>[]): Promise<(RankEnd<T> & { after: number })[]> {
  let first: number | undefined;
  return await Promise.all(
    ranks.map(async ({ ended }) => {
      const end = await ended;
      const now = performance.now();
      first ??= now;
      return { ...end, after: (now - first) / 1000 };
    }),
  );
}

function resultOf<T>({ result, stderr }: RankEnd<T>): T {
  if (result === undefined) throw new Error(`reported nothing: ${stderr}`);
  return result;
}

describe("a rank that comes late", () => {
  it("meets a timeout that the others had in time, whether they block or await", async () => {
    const ends = await trouble<{ blocking: Failure }>("late", { exit: "4" });
    const [early, late] = ends.map((end) => resultOf(end).blocking);
    expect(early).toMatchObject({ code: "DISTRIBUTED_TIMEOUT", message: expect.stringMatching(/^allReduce in group/) });
    expect(early.seconds).toBeGreaterThan(0.45);
    expect(early.seconds).toBeLessThan(2);
    expect(late).toMatchObject({ code: "DISTRIBUTED_PEER" });
    expect(ends.map(({ code }) => code)).toEqual([4, 4]);

    const [waiting] = await trouble<{ failure: Failure; ticks: number }>("lateAwaited");
    const { failure, ticks } = resultOf(waiting);
    expect(failure).toMatchObject({ code: "DISTRIBUTED_TIMEOUT" });
    expect(failure.seconds).toBeLessThan(2);
    expect(ticks).toBeGreaterThan(5);
    expect(waiting.code).toBe(0);
  });

  it("is named by a monitored barrier", async () => {
    const ends = await trouble<Failure>("absent", { size: 3 });
    for (const end of ends.slice(0, 2)) {
      expect(resultOf(end)).toMatchObject({
        code: "DISTRIBUTED_TIMEOUT",
        message: "monitoredBarrier of 'world': rank 2 did not arrive within 0.5 s",
      });
    }
    expect(ends.map(({ code }) => code)).toEqual([0, 0, 0]);
  });
});

describe("a rank that dies", () => {
  it("fails the others' collective at once", async () => {
    const [survivor, dead] = await trouble<Failure>("dies");
    expect(dead.signal).toBe("SIGKILL");
    expect(resultOf(survivor)).toMatchObject({ code: "DISTRIBUTED_PEER" });
    expect(resultOf(survivor).seconds).toBeLessThan(5);
    expect(survivor.code).toBe(0);
  });
});

describe("a group that is given up", () => {
  it("is left with what is under way in it, and another can be made", async () => {
    const ends = await trouble<{ after: Failure; sum: number; underWay?: Failure }>("aborts", { exit: "7" });
    for (const end of ends) {
      expect(resultOf(end)).toMatchObject({ after: { code: "DISTRIBUTED_STATE" }, sum: 3 });
      expect(end.code).toBe(7);
    }
    expect(resultOf(ends[0]).underWay?.code).toMatch(/^DISTRIBUTED_(TIMEOUT|PEER)$/);
  });
});

describe.each(["rank 0", "a launcher"])("with the store of %s", (holder) => {
  /** Where the ranks meet. A launcher's store outlives the worlds in it. */
  async function meeting(): Promise<{ store: TCPStore | undefined; env: NodeJS.ProcessEnv }> {
    if (holder === "rank 0") return { store: undefined, env: {} };
    const store = await TCPStore.connect({ host: "127.0.0.1", port: 0, isServer: true });
    return { store, env: { MASTER_PORT: String(store.port), TORCHELASTIC_USE_AGENT_STORE: "True" } };
  }

  it("a world can be given up after a failure, and another joined", async () => {
    const { store, env } = await meeting();
    using _store = store;
    const ends = await trouble<{ isLeft: boolean; after: Failure; sum: number }>("abandons", { env });
    for (const end of ends) {
      expect(resultOf(end)).toMatchObject({ isLeft: true, after: { code: "DISTRIBUTED_STATE" }, sum: 3 });
    }
  });

  it("many worlds can be left and joined", async () => {
    const { store, env } = await meeting();
    using _store = store;
    const ends = await trouble<{ sums: number[] }>("rejoins", { exit: "natural", env });
    for (const end of ends) {
      expect(resultOf(end)).toMatchObject({ sums: [3, 5, 7], twice: { code: "DISTRIBUTED_STATE" } });
      expect(end.code).toBe(0);
    }
  });
});

describe("the end of a process", () => {
  it.each([
    ["begun collectives", "exitsWaiting", "0"],
    ["begun collectives, by itself", "exitsWaiting", "natural"],
    ["awaited collectives, barriers, stores and groups", "exitsAwaiting", "5"],
  ])("does not wait for %s", async (_, name, exit) => {
    const [first, second] = await trouble(name, { exit });
    const code = exit === "natural" ? 0 : Number(exit);
    expect([first.code, second.code], first.stderr).toEqual([code, code]);
    expect(first.after).toBe(0);
    expect(second.after).toBeGreaterThan(1); // the other lived on: its end was not what let the first one go
  });

  it.each(["its process has groups, too", "it alone has loaded the addon"])(
    "nor does that of a thread: %s",
    async (which) => {
      type Ended = { code: number; messages: unknown[]; sum?: number };
      const ends = which.startsWith("its")
        ? await trouble<Ended>("worker")
        : await endsOf(await startRanks<Ended>("lone-thread.ts"));
      for (const [rank, end] of ends.entries()) {
        expect(end.code, end.stderr).toBe(0);
        expect(resultOf(end)).toMatchObject({ code: 3, messages: rank === 0 ? [3, false] : [3] });
      }
    },
  );
});

describe("two thousand collectives", () => {
  it("leave nothing behind", async () => {
    type Memory = { rss: number; tensors: number };
    const ends = await trouble<{ before: Memory; after: Memory; calls: number }>("memory");
    for (const end of ends) {
      const { before, after, calls } = resultOf(end);
      expect(calls).toBeGreaterThanOrEqual(2000);
      expect(after.tensors).toBe(before.tensors);
      // Each collective that were kept would keep 80 KB or more.
      expect(after.rss - before.rss).toBeLessThan(40e6);
    }
  });
});
