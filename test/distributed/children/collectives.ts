// One rank that goes through the collectives and tells what it holds afterwards.
import { setTimeout as sleep } from "node:timers/promises";
import { communication, type ProcessGroup, type ReduceOperation, type World } from "../../../lib/distributed/index.js";
import * as torch from "../../../lib/torch/index.js";
import { asRank } from "../rank.js";

/** A case of test/fixtures/collectives.json, which holds what PyTorch gives for it. */
export interface GoldenCase {
  collective: string;
  dtype: torch.DType;
  op?: ReduceOperation;
  results: (number[] | null)[];
}

type Tensor = torch.Tensor;

/** What a call threw: "CODE: message". */
async function refusal(run: () => unknown): Promise<string> {
  try {
    await run();
  } catch (error) {
    return `${(error as { code?: string }).code}: ${(error as Error).message}`;
  }
  return "none";
}

const values = (tensor: Tensor) => torch.scope(() => Array.from(tensor.double().toTypedArray() as Float64Array));

/** The inputs of scripts/fixtures/collectives.py. */
function numbers(rank: number, count: number, dtype: torch.DType): Tensor {
  const share = /float/.test(dtype) ? 1 / 8 : 0;
  return torch.tensor(Array.from({ length: count }, (_, i) => ((7 * i + 5 * rank + 3) % 4) + i * share)).to(dtype);
}

async function golden(group: ProcessGroup, { collective, dtype, op }: GoldenCase): Promise<number[] | null> {
  const { rank, size } = group;
  const made = (count: number) => numbers(rank, count, dtype);
  const empty = (count: number) => torch.zeros([count], { dtype });
  const parts = () => Array.from({ length: size }, () => empty(2));
  switch (collective) {
    case "allReduce": {
      const out = made(5);
      await group.allReduce(out, { op });
      return values(out);
    }
    case "reduce": {
      const out = made(5);
      await group.reduce(out, { dst: 1, op });
      return rank === 1 ? values(out) : null;
    }
    case "reduceScatter": {
      const out = empty(2);
      await group.reduceScatter(out, made(6), { op });
      return values(out);
    }
    case "broadcast": {
      const out = made(5);
      await group.broadcast(out, { src: 2 });
      return values(out);
    }
    case "allGather": {
      const out = empty(6);
      await group.allGather(out, made(2));
      return values(out);
    }
    case "allGatherList": {
      const outputs = parts();
      await group.allGatherList(outputs, made(2));
      return values(torch.cat(outputs));
    }
    case "gather": {
      const outputs = parts();
      await group.gather(made(2), rank === 2 ? { dst: 2, outputs } : { dst: 2 });
      return rank === 2 ? values(torch.cat(outputs)) : null;
    }
    case "scatter": {
      const out = empty(2);
      await group.scatter(
        out,
        rank === 1 ? { src: 1, inputs: torch.ops.aten.chunk(made(6), size) as Tensor[] } : { src: 1 },
      );
      return values(out);
    }
    case "allToAll": {
      const out = empty(6);
      await group.allToAll(out, made(6));
      return values(out);
    }
    case "allToAllSplit": {
      const sizes = Array.from({ length: size }, (_, other) => rank + other);
      const total = sizes.reduce((a, b) => a + b, 0);
      const out = empty(total);
      await group.allToAll(out, made(total), { inputSplits: sizes, outputSplits: sizes });
      return values(out);
    }
    default:
      throw new Error(`no such case: ${collective}`);
  }
}

/** What blocks, and what lets the event loop go on. */
async function waiting({ group, rank, size }: World) {
  if (rank === 0) await sleep(300);
  const awaited = torch.tensor([rank]);
  let ticks = 0;
  const timer = setInterval(() => ticks++, 10);
  await group.allReduce(awaited);
  clearInterval(timer);
  const x = torch.ones([2]);
  const work = group.allReduce(x);
  const source = work.wait();
  const again = work.wait();
  const both = group.allReduce(x);
  const first = both.then(() => "settled");
  const whileAwaited = rank === 0 ? await refusal(() => both.wait()) : "";
  const doneWhileAwaited = both.isCompleted;
  await first;
  return {
    awaited: awaited.item(),
    ticks,
    source,
    again,
    x: values(x),
    size,
    whileAwaited,
    doneWhileAwaited,
    done: both.isCompleted,
  };
}

/** Several under way at once, their results taken in another order than they began. */
async function inFlight(group: ProcessGroup) {
  const sums = Array.from({ length: 9 }, (_, i) => torch.full([1000], (group.rank + 1) * (i + 1)));
  const works = sums.map((sum) => group.allReduce(sum));
  for (const i of [8, 2, 5]) works[i].wait();
  await Promise.all(works.reverse());
  return sums.map((sum) => [sum.amin().item(), sum.amax().item()]);
}

async function messages({ group, rank, size }: World) {
  const [next, previous] = [(rank + 1) % size, (rank + size - 1) % size];
  // Tags, and not the order, say which is which.
  const [a, b] = [torch.zeros([3]), torch.zeros([1], { dtype: "int64" })];
  const receiving = [group.recv(b, previous, 8), group.recv(a, previous, 7)];
  const sending = [group.send(torch.full([3], rank), next, 7), group.send(torch.tensor([-rank]).long(), next, 8)];
  await Promise.all([...receiving, ...sending]);
  // Everybody to rank 0, which knows from whom only afterwards.
  const from: [rank: number, value: number][] = [];
  for (let i = 1; i < size && rank === 0; i++) {
    const got = torch.zeros([1]);
    from.push([group.recv(got, undefined, 9).wait(), got.item()]);
  }
  if (rank > 0) group.send(torch.tensor([rank * 10]), 0, 9).wait();
  return { a: values(a), b: b.item(), from: from.sort(([a], [b]) => a - b) };
}

async function subgroups({ group, rank, size }: World) {
  const members = [size - 1, 0]; // the order is the group's own
  const inside = members.includes(rank);
  const outside = await refusal(() => group.subgroup(members.filter((member) => member !== rank)));
  if (!inside) return { outside };
  const pair = await group.subgroup(members);
  const twin = await group.subgroup(members);
  const sum = torch.tensor([rank + 1]);
  await pair.allReduce(sum);
  const own = torch.tensor([pair.rank]);
  await twin.broadcast(own, { src: 1 });
  const inner = await pair.subgroup([1, 0]);
  const facts = {
    rank: pair.rank,
    size: pair.size,
    ranks: pair.ranks,
    names: [pair.name, twin.name],
    inner: inner.ranks,
  };
  await inner.destroy();
  await twin.destroy();
  await pair.allReduce(sum); // the others' end is not its end
  await pair.destroy();
  return { outside, ...facts, sum: sum.item(), own: own.item(), gone: await refusal(() => pair.allReduce(sum)) };
}

const OBJECTS: unknown[] = [
  null,
  "",
  [],
  {},
  0,
  "Ünïcödé 🚀 \u0000 \ud83d",
  { nested: [{ deep: [1, [2, [3]]] }], text: "a".repeat(1019) },
  "b".repeat(1018), // as JSON exactly what crosses at once
  "ß".repeat(2 ** 19), // 1 MiB as UTF-8
];

async function objects({ group, rank, size }: World) {
  const gathered: boolean[] = [];
  for (const [i, value] of OBJECTS.entries()) {
    // Large ones from one rank only: the others must make room, too.
    const all = await group.allGatherObject(rank === i % size ? value : { rank });
    const expected = Array.from({ length: size }, (_, r) => (r === i % size ? value : { rank: r }));
    gathered.push(JSON.stringify(all) === JSON.stringify(expected));
  }
  const strange = { nan: Number.NaN, infinite: Number.POSITIVE_INFINITY, missing: undefined, date: new Date(0) };
  return {
    gathered,
    broadcast: await group.broadcastObject(rank === 1 ? { from: 1 } : undefined, { src: 1 }),
    nothing: await group.allGatherObject(undefined),
    functions: await group.allGatherObject(rank === 0 ? () => {} : Symbol("none")),
    strange: await group.allGatherObject(strange),
    bigint: rank === 0 ? await refusal(() => group.allGatherObject(1n)) : "",
    circular: rank === 0 ? await refusal(() => group.allGatherObject(circle())) : "",
    outside: await refusal(() => group.broadcastObject(1, { src: size })),
  };
}

function circle(): object {
  const ring: { self?: object } = {};
  ring.self = ring;
  return ring;
}

/** What a caller gets wrong. Each must fail here, before anything is sent: the others go on without noticing. */
async function mistakes({ group, rank, size }: World) {
  const ones = (...shape: number[]) => torch.ones(shape);
  const disposed = ones(2);
  disposed.dispose();
  const calls: Record<string, () => unknown> = {
    "not contiguous": () => group.allReduce(ones(2, 3).transpose(0, 1)),
    "not contiguous in a list": () => group.allReduce([ones(2), ones(4, 4).narrow(1, 0, 2)]),
    "not contiguous to gather": () => group.allGather(ones(3, size).transpose(0, 1), ones(3)),
    disposed: () => group.allReduce(disposed),
    "no tensors": () => group.allReduce([]),
    "two dtypes": () => group.allReduce([ones(2), ones(2).double()]),
    "two dtypes to gather": () => group.allGather(ones(2 * size), ones(2).long()),
    int16: () => group.broadcast(ones(2).to("int16")),
    "average of integers": () => group.allReduce(ones(2).long(), { op: "avg" }),
    "average of booleans": () => group.reduceScatter(ones(2).bool(), ones(2 * size).bool(), { op: "avg" }),
    "bits of floats": () => group.reduce(ones(2), { op: "bxor" }),
    "no such operation": () => group.allReduce(ones(2), { op: "mean" as ReduceOperation }),
    "too small to gather": () => group.allGather(ones(2 * size - 1), ones(2)),
    "too large to scatter": () => group.reduceScatter(ones(3), ones(2 * size)),
    "too few to gather": () => group.allGatherList([ones(2)], ones(2)),
    "unequal to gather": () =>
      group.allGatherList(
        Array.from({ length: size }, (_, i) => ones(i + 1)),
        ones(1),
      ),
    "too few to scatter": () => group.scatter(ones(2), { src: rank, inputs: [] }),
    "no place to gather": () => group.gather(ones(2), { dst: rank }),
    "uneven parts": () => group.allToAll(ones(size + 1), ones(size + 1)),
    "splits that do not add up": () =>
      group.allToAll(ones(size), ones(size), { inputSplits: Array(size).fill(2), outputSplits: Array(size).fill(1) }),
    "too few splits": () => group.allToAll(ones(size), ones(size), { inputSplits: [size], outputSplits: [size] }),
    "negative splits": () =>
      group.allToAll(ones(size), ones(size), { inputSplits: [-1, size + 1, ...Array(size - 2).fill(0)] }),
    "no such source": () => group.broadcast(ones(2), { src: size }),
    "no such destination": () => group.reduce(ones(2), { dst: -1 }),
    "half a rank": () => group.send(ones(2), 0.5),
    "to itself": () => group.send(ones(2), rank),
    "from itself": () => group.recv(ones(2), rank),
    "on another device": () => group.allReduce(torch.ones([2], { device: "meta" })),
    "a timeout of nothing": () => (group.timeout = 0),
    "a subgroup of doubles": () => group.subgroup([rank, rank]),
    "a subgroup of strangers": () => group.subgroup([rank, size]),
  };
  const found: Record<string, string> = {};
  for (const [name, call] of Object.entries(calls)) found[name] = await refusal(call);
  return found;
}

async function edges({ group, rank, size }: World) {
  const empty = () => torch.empty([0]);
  await group.allReduce(empty());
  await group.broadcast(empty());
  await group.allGather(empty(), empty());
  await group.reduceScatter(empty(), empty());
  await group.allToAll(empty(), empty());
  const scalar = torch.tensor(rank + 1);
  const leaf = torch.ones([2]).requiresGrad_();
  const truth = torch.tensor([true, false, rank === 0]);
  const list = [torch.full([2, 2], rank), empty(), torch.tensor([rank + 0.5])];
  const [view] = [torch.arange(6).float().add(rank)];
  await group.allReduce(scalar);
  await group.allReduce(leaf);
  await group.allReduce(truth);
  await group.allReduce(list, { op: "max" });
  await group.allReduce(view.narrow(0, 2, 2)); // contiguous, though a part
  await group.reduceScatter(torch.empty([1]), torch.ones([size]));
  const dropped = torch.ones([100_000]);
  const work = group.allReduce(dropped);
  dropped.dispose(); // the work holds it
  await work;
  return {
    scalar: scalar.item(),
    leaf: [values(leaf.detach()), leaf.requiresGrad],
    truth: Array.from(truth.toTypedArray() as Uint8Array),
    list: list.map(values),
    view: values(view),
  };
}

/** Counted calls and bytes of one all-reduce and one all-gather of 12 bytes a rank. */
async function counted(group: ProcessGroup) {
  const before = { ...communication };
  const x = torch.ones([3]);
  await group.allReduce(x);
  await group.allGather(torch.empty([3 * group.size]), x);
  return { calls: communication.calls - before.calls, bytes: communication.bytes - before.bytes };
}

export type CollectivesResult = Awaited<ReturnType<typeof everything>>;

async function everything(world: World) {
  const { group } = world;
  const cases = JSON.parse(process.argv[2] ?? "[]") as GoldenCase[];
  const results: (number[] | null)[] = [];
  for (const each of cases) results.push(await torch.scope(async () => await golden(group, each)));
  await group.barrier();
  group.barrier().wait();
  await group.monitoredBarrier();
  return {
    golden: results,
    waiting: await waiting(world),
    inFlight: await inFlight(group),
    messages: await messages(world),
    subgroups: await subgroups(world),
    objects: await objects(world),
    mistakes: await mistakes(world),
    edges: await edges(world),
    counted: await counted(group),
  };
}

await asRank((world) => torch.scope(async () => await everything(world)));
