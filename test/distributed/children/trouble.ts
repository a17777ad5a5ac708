// One rank of a group to which something happens that should not: what collectives.test.ts looks at from outside.
import { setTimeout as sleep } from "node:timers/promises";
import {
  abortProcessGroup,
  communication,
  type DistributedError,
  destroyProcessGroup,
  initProcessGroup,
  ProcessGroup,
  type World,
  world,
} from "../../../lib/distributed/index.js";
import * as torch from "../../../lib/torch/index.js";
import { report } from "../rank.js";
import { endOfThread } from "./thread.js";

/** What a call threw, and how long it took to. */
export interface Failure {
  code: string;
  message: string;
  seconds: number;
}

async function failureOf(run: () => unknown): Promise<Failure> {
  const start = performance.now();
  const seconds = () => (performance.now() - start) / 1000;
  try {
    await run();
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    return { code: (error as DistributedError).code, message: error.message, seconds: seconds() };
  }
  return { code: "none", message: "", seconds: seconds() };
}

const scenarios: Record<string, (world: World) => Promise<unknown>> = {
  /** Rank 1 comes after the others' timeout. */
  async late({ group, rank }) {
    group.timeout = 0.5;
    if (rank === 1) await sleep(2500);
    const blocking = await failureOf(() => group.allReduce(torch.ones([4])).wait());
    return { blocking };
  },

  async lateAwaited({ group, rank }) {
    group.timeout = 0.5;
    if (rank === 1) await sleep(2500);
    let ticks = 0;
    const timer = setInterval(() => ticks++, 20);
    const failure = await failureOf(() => group.allReduce(torch.ones([4])));
    clearInterval(timer);
    return { failure, ticks };
  },

  /** The last rank never comes to the barrier. */
  async absent({ group, rank, size }) {
    if (rank === size - 1) {
      await sleep(2500);
      return {};
    }
    return await failureOf(() => group.monitoredBarrier(0.5));
  },

  /** A rank dies while the others wait for it. */
  async dies({ group, rank }) {
    if (rank === 1) {
      await sleep(500);
      process.kill(process.pid, "SIGKILL");
    }
    return await failureOf(() => group.allReduce(torch.ones([4])));
  },

  /** Gives a group up with a collective under way, and makes another. */
  async aborts({ group, rank, store, size }) {
    group.timeout = 1;
    const failure = rank === 0 ? failureOf(() => group.allReduce(torch.ones([4]))) : undefined;
    await sleep(100);
    group.abort();
    const after = await failureOf(() => group.allReduce(torch.ones([4])).wait());
    const again = await ProcessGroup.create(store, rank, size, { name: "again", timeout: 20 });
    const sum = torch.tensor([rank + 1]);
    await again.allReduce(sum);
    await again.destroy();
    return { after, sum: sum.item(), underWay: await failure };
  },

  /** Leaves the world and joins it anew, several times. */
  async rejoins(world) {
    const sums: number[] = [];
    let { group, control } = world;
    for (let i = 0; i < 3; i++) {
      const sum = torch.tensor([group.rank + 1 + i]);
      await group.allReduce(sum);
      sums.push(sum.item());
      await control.barrier();
      await destroyProcessGroup();
      const left = await failureOf(() => group.allReduce(sum));
      if (left.code !== "DISTRIBUTED_STATE") throw new Error(`a group that was left: ${left.code}`);
      if (group.rank > 0) await sleep(1000); // rank 0's store is gone before it comes anew
      ({ group, control } = await initProcessGroup({ backend: "gloo", timeout: 20 }));
    }
    return { sums, twice: await failureOf(() => initProcessGroup()) };
  },

  /** Gives the world up with a collective under way, and joins anew. */
  async abandons({ group }) {
    group.timeout = 2;
    const underWay = group.rank === 0 ? failureOf(() => group.allReduce(torch.ones([4]))) : undefined;
    await sleep(100);
    abortProcessGroup();
    const left = world();
    const after = await failureOf(() => group.allReduce(torch.ones([4])).wait());
    if (group.rank > 0) await sleep(1000); // rank 0's store is gone before it comes anew
    const again = await initProcessGroup({ backend: "gloo", timeout: 20 });
    const sum = torch.tensor([again.rank + 1]);
    await again.group.allReduce(sum);
    return { isLeft: left === undefined, after, sum: sum.item(), underWay: await underWay };
  },

  /** Ends with collectives under way that nobody answers. */
  async exitsWaiting({ group, rank }) {
    if (rank === 1) {
      await sleep(3000);
      return {};
    }
    group.timeout = 300;
    const work = group.allReduce(torch.ones([1 << 20]));
    return { done: work.isCompleted };
  },

  async exitsAwaiting({ group, rank, store }) {
    if (rank === 1) {
      await sleep(3000);
      return {};
    }
    group.timeout = 300;
    group.allReduce(torch.ones([1 << 20])).then(
      () => {},
      () => {},
    );
    group.recv(torch.ones([3]), 1, 9).then(
      () => {},
      () => {},
    );
    // These wait on threads of their own, too.
    for (const forEver of [
      () => group.monitoredBarrier(300),
      () => store.get("never", 300),
      () => ProcessGroup.create(store, 0, 2, { name: "never", timeout: 300 }),
    ]) {
      forEver().then(
        () => {},
        () => {},
      );
    }
    await sleep(100);
    return {};
  },

  /** A thread of one rank makes a group of its own, begins something and ends. */
  async worker({ group, rank }) {
    const ended = await endOfThread({ rank, port: Number(process.env.MASTER_PORT), serves: false });
    const sum = torch.tensor([rank + 1]);
    await group.allReduce(sum); // the thread's end has not touched what is this one's
    return { ...ended, sum: sum.item() };
  },

  /** Bytes of the process before and after many collectives. */
  async memory({ group, rank }) {
    const other = 1 - rank;
    const rounds = async (count: number) => {
      for (let i = 0; i < count; i++) {
        await torch.scope(async () => {
          const x = torch.ones([20_000]);
          group.allReduce(x).wait();
          const all = torch.empty([40_000]);
          await group.allGather(all, x);
          const works = [group.send(x, other, i), group.recv(torch.empty([20_000]), other, i)];
          for (const work of works) work.wait();
        });
        await group.allGatherObject({ i });
      }
    };
    await rounds(100);
    const before = { rss: process.memoryUsage.rss(), ...torch.memory() };
    const { calls } = communication;
    await rounds(400);
    const after = { rss: process.memoryUsage.rss(), ...torch.memory() };
    return { before, after, calls: communication.calls - calls };
  },
};

const [name, exit = "0"] = process.argv.slice(2);
torch.setNumThreads(1);
const joined = await initProcessGroup({ backend: "gloo", timeout: 20 });
const result = await scenarios[name](joined);
await report(result);
if (exit !== "natural") process.exit(Number(exit));
process.disconnect?.();
