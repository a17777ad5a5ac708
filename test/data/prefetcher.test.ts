import { spawnSync } from "node:child_process";
import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { afterEach, describe, expect, it, vi } from "vitest";
import { DataThread } from "../../lib/data/data-thread.js";
import {
  type Batch,
  type Dataset,
  type DatasetDescription,
  Loader,
  type LoaderDescription,
  openDataset,
  PackedDataset,
  Prefetcher,
  type PrefetchOptions,
  SftDataset,
  TokenFile,
} from "../../lib/data/index.js";
import { TokenFileWriter } from "../../lib/data/token-file.js";
import { shareOf } from "../../lib/parallel/index.js";
import { collectGarbage } from "../torch/collect-garbage.js";
import { rejectionOf, temporaryFolder, tokenizer } from "./helpers.js";
import {
  BEATS,
  FAULTS_LEFT,
  type Fault,
  ModuleDataset,
  READ,
  SlowDataset,
  STARTED,
  sharedMemory,
} from "./module-dataset.js";

/** A file of 40 documents of 1 to 25 tokens, in memory or on disk. */
function tokenFile(memoryBytes?: number): { file: TokenFile; path: string } {
  const folder = temporaryFolder();
  const writer = new TokenFileWriter(folder, "train", 70_000);
  for (let i = 0; i < 40; i++) {
    const ids = Array.from({ length: 1 + ((i * 7) % 25) }, (_, j) => 1000 * i + j);
    writer.append(ids, ids.length, `${i}`);
  }
  return { file: new TokenFile(folder, "train", writer.finish(), memoryBytes), path: join(folder, "train.tokens") };
}

const packing = { seqLen: 16, keepDocumentBoundaries: true, tail: "pad", padId: 3 } as const;
const records = Array.from({ length: 30 }, (_, i) => ({
  name: `${i}`,
  value: { prompt: `number ${i} is `, answer: "odd ".repeat(1 + (i % 5)) },
}));

const datasets: Record<string, () => Dataset> = {
  "tokens in memory": () => new PackedDataset(tokenFile().file, packing),
  "tokens on disk": () => new PackedDataset(tokenFile(0).file, { seqLen: 8 }),
  "fine-tuning": () => new SftDataset(records, { tokenizer, seqLen: 64 }),
  "a module's": () => new ModuleDataset(sharedMemory()),
};

const open: Disposable[] = [];
function prefetcherOf(loader: Loader, options: Partial<PrefetchOptions> = {}): Prefetcher {
  const prefetcher = new Prefetcher(loader, { stride: 4, parts: [{ from: 0, to: 4 }], workers: 1, ...options });
  open.push(prefetcher);
  return prefetcher;
}
afterEach(() => {
  for (const each of open.splice(0)) each[Symbol.dispose]();
  vi.restoreAllMocks();
});

/** Takes steps until threads read them all, and gives back the position of the next. */
async function warm(prefetcher: Prefetcher, stride = 4, position = 0): Promise<number> {
  const here = vi.spyOn(Loader.prototype, "batchAt");
  for (let at = position, inARow = 0; ; at += stride) {
    const before = here.mock.calls.length;
    await prefetcher.take(at);
    inARow = here.mock.calls.length === before ? inARow + 1 : 0;
    if (inARow === 3) {
      here.mockRestore();
      return at + stride;
    }
    await sleep(5);
  }
}

/** The step and "CODE message" of the first step from `position` that fails. */
async function firstFailure(prefetcher: Prefetcher, position: number): Promise<string> {
  for (let at = position; at < position + 4 * 200; at += 4) {
    const failure = await rejectionOf(prefetcher.take(at));
    if (failure !== "nothing thrown") return failure;
  }
  return "nothing thrown";
}

const faulty = (fault: Fault, shared = sharedMemory()) => new Loader(new ModuleDataset(shared, fault), { seed: 3 });

describe("threads that read data", () => {
  it.each(Object.keys(datasets))("read the same batches anywhere in the stream: %s", async (kind) => {
    const loader = new Loader(datasets[kind](), { seed: 5, stage: 2 });
    const thread = new DataThread(loader.describe() as LoaderDescription);
    try {
      const place = fc.record({ position: fc.nat(1e9), batchSize: fc.integer({ min: 1, max: 9 }) });
      await fc.assert(
        fc.asyncProperty(fc.array(place, { minLength: 1, maxLength: 3 }), async (places) => {
          const there = await thread.read(places);
          expect(there).toEqual(places.map(({ position, batchSize }) => loader.batchAt(position, batchSize)));
        }),
        { numRuns: 30 },
      );
    } finally {
      thread.close();
    }
  });

  it("give each rank its own part of every step, from any position, however many they are", async () => {
    const loader = new Loader(new PackedDataset(tokenFile().file, packing), { seed: 1 });
    const stride = 11;
    const start = 3 * stride + 5;
    const steps = 12;
    const partsOf = (rank: number, size: number, accumulation: number) => {
      const own = shareOf(stride, rank, size);
      return Array.from({ length: accumulation }, (_, i) => {
        const { from, to } = shareOf(own.to - own.from, i, accumulation);
        return { from: own.from + from, to: own.from + to };
      });
    };
    const rowsOf = ({ indices, tokens, seqLen, lossMask, samples }: Batch) =>
      indices.map((index, row) => {
        const [from, to] = [row * seqLen, (row + 1) * seqLen];
        return [index, samples?.[row], tokens.slice(from, to).join(), lossMask?.slice(from, to).join()].join(" ");
      });
    const stream = rowsOf(loader.batchAt(start, steps * stride)).map((row) => row.replace(/1(,1)*$/, ""));
    for (const [size, accumulation, workers] of [
      [1, 1, 0],
      [1, 3, 2],
      [3, 1, 1],
      [2, 2, 1],
    ] as const) {
      const rows: string[] = [];
      for (let rank = 0; rank < size; rank++) {
        const prefetcher = prefetcherOf(loader, { stride, parts: partsOf(rank, size, accumulation), workers });
        for (let step = 0; step < steps; step++) {
          const batches = await prefetcher.take(start + step * stride);
          expect(batches).toHaveLength(accumulation);
          rows.push(...batches.flatMap(rowsOf).map((row) => row.replace(/1(,1)*$/, "")));
          prefetcher.readAhead();
          if (step % 3 === 0) await sleep(10 * ((step + rank) % 4)); // now this thread is first, now the others
        }
      }
      const byIndex = (a: string, b: string) => Number.parseInt(a, 10) - Number.parseInt(b, 10);
      expect(rows.sort(byIndex)).toEqual(stream);
    }
  });

  it("are asked in time, and steps may jump", async () => {
    const shared = sharedMemory();
    const loader = new Loader(new ModuleDataset(shared));
    const prefetcher = prefetcherOf(loader, { workers: 2 });
    let position = await warm(prefetcher);
    await vi.waitUntil(() => shared[STARTED] === 2);
    position = await warm(prefetcher, 4, position);
    const here = vi.spyOn(Loader.prototype, "batchAt");
    for (let i = 0; i < 20; i++, position += 4) expect((await prefetcher.take(position))[0].indices[0]).toBe(position);
    expect(here).not.toHaveBeenCalled();
    expect(shared[READ]).toBeGreaterThan(80);
    for (const at of [1_000_002, 3, 7, 500]) {
      const batches = await prefetcher.take(at);
      expect(batches).toEqual([loader.batchAt(at, 4)]);
    }
  });

  it("load no native code, and no package", () => {
    const met = new Set<string>();
    const visit = (path: string) => {
      if (met.has(path)) return;
      met.add(path);
      const text = readFileSync(path, "utf8");
      for (const [, what, name] of text.matchAll(/^(?:import|export) ([^;]*?) from "([^"]+)";/gm)) {
        if (what.startsWith("type ")) continue;
        if (name.startsWith(".")) visit(join(dirname(path), name.replace(/\.js$/, ".ts")));
        else expect(name, path).toMatch(/^node:/);
      }
    };
    visit(fileURLToPath(new URL("../../lib/data/prefetch-thread.ts", import.meta.url)));
    const names = [...met].map((path) => path.replace(/.*\/lib\//, ""));
    expect(names).toContain("data/packing.ts");
    expect(names).toContain("torch/philox.ts");
    expect(
      names.filter(
        (name) => !/^data\/|^worker\/|^torch\/philox.ts$|^base\/(coded-error|renamed-options).ts$/.test(name),
      ),
    ).toEqual([]);
  });
});

describe("errors of threads that read data", () => {
  it.each([
    [{ sample: 9, how: "error" }, /^MY_CODE no such thing$/],
    [{ sample: 9, how: "string" }, /^undefined just words$/],
    [{ sample: 9, how: "short" }, /^DATA_RANGE sample 9 has 3 tokens/],
    [{ sample: 9, how: "exit" }, /^DATA_WORKER .* ended twice, the second time with: exit code 7$/],
  ] as [Fault, RegExp][])("come out of the step that needs the batch: %o", async (fault, expected) => {
    const shared = sharedMemory(0); // no fault until it runs
    const loader = faulty(fault, shared);
    const prefetcher = prefetcherOf(loader);
    let position = await warm(prefetcher);
    // Far from where the thread is: it reads two steps ahead.
    while ([0, 4, 8, 12].some((ahead) => loader.batchAt(position + ahead - 4, 4).samples?.includes(9))) {
      await prefetcher.take(position);
      position += 4;
    }
    shared[FAULTS_LEFT] = 1e6;
    while (!loader.batchAt(position, 4).samples?.includes(9)) {
      expect(await prefetcher.take(position)).toEqual([loader.batchAt(position, 4)]);
      position += 4;
    }
    expect(await rejectionOf(prefetcher.take(position))).toMatch(expected);
    const died = fault.how === "exit";
    expect(shared[STARTED]).toBe(died ? 2 : 1);
    // A dead thread stays dead; a batch that failed is read again when it is asked for again, here.
    if (died) expect(await rejectionOf(prefetcher.take(position + 4))).toMatch(expected);
    else expect(await prefetcher.take(position)).toEqual([loader.batchAt(position, 4)]);
  });

  it("do not come of one death: the thread is replaced and nothing is lost", async () => {
    const shared = sharedMemory(1);
    const loader = faulty({ sample: 9, how: "exit" }, shared);
    const prefetcher = prefetcherOf(loader);
    for (let at = 0; shared[STARTED] < 2 || at < 400; at += 4) {
      expect(await prefetcher.take(at)).toEqual([loader.batchAt(at, 4)]);
      if (shared[STARTED] < 2) await sleep(2);
    }
    expect(shared[STARTED]).toBe(2);
    expect(shared[FAULTS_LEFT]).toBeLessThanOrEqual(0);
  });

  it("say what ended a thread between two reads", async () => {
    const prefetcher = prefetcherOf(faulty({ sample: 9, how: "later" }));
    let failure = "nothing thrown";
    for (let at = 0; failure === "nothing thrown" && at < 40_000; at += 4) {
      failure = await rejectionOf(prefetcher.take(at));
      await sleep(1);
    }
    expect(failure).toMatch(/^DATA_WORKER .* ended twice, the second time with: thrown later$/);
  });

  it("come of a token file that was cut off", async () => {
    const { file, path } = tokenFile(0);
    const prefetcher = prefetcherOf(new Loader(new PackedDataset(file, { seqLen: 8 }), { shuffle: false }));
    const position = await warm(prefetcher);
    truncateSync(path, 100);
    const here = vi.spyOn(Loader.prototype, "batchAt");
    expect(await firstFailure(prefetcher, position)).toMatch(/^DATA_STORE .*train\.tokens is damaged: it ends within/);
    expect(here).not.toHaveBeenCalled();
    file.close();
  });

  it.each<[Partial<Extract<DatasetDescription, { kind: "module" }>>, RegExp]>([
    [{ module: "file:///nowhere/at-all.js" }, /^ERR_MODULE_NOT_FOUND .*nowhere/],
    [{ export: "Other" }, /^DATA_WORKER .*does not export a class or function Other; its exports are .*ModuleDataset/],
    [{ args: [sharedMemory(), undefined, 7] }, /^DATA_WORKER .*a different dataset: its numSamples is 7 instead of 23/],
    [{ args: [() => 1] }, /^DATA_WORKER cannot start a thread that reads data: .*could not be cloned/],
  ])("say why a description cannot be used: %o", async (wrong, expected) => {
    const dataset = new ModuleDataset(sharedMemory());
    const described = dataset.describe();
    dataset.describe = () => ({ ...described, ...wrong }) as DatasetDescription;
    const prefetcher = prefetcherOf(new Loader(dataset));
    let failure = "nothing thrown";
    for (let at = 0; failure === "nothing thrown" && at < 4000; at += 4) {
      await sleep(5);
      failure = await rejectionOf(prefetcher.take(at));
    }
    expect(failure).toMatch(expected);
  });
});

describe("Prefetcher", () => {
  it("reads in this thread what no other can open", async () => {
    const sample = (index: number) => ({ tokens: Int32Array.of(index, 1) });
    class Reversed extends PackedDataset {
      override sample(index: number) {
        return super.sample(this.numSamples - 1 - index);
      }
    }
    class Constant extends Loader {
      override batchAt(_position: number, batchSize: number) {
        return super.batchAt(0, batchSize);
      }
    }
    const source = { ...tokenFile().file, read: () => new Int32Array(8), documentAt: () => 0 };
    const packed = new PackedDataset(tokenFile().file, { seqLen: 8 });
    for (const loader of [
      new Loader({ seqLen: 2, numSamples: 5, sample }),
      new Loader(new Reversed(tokenFile().file, { seqLen: 8 })),
      new Constant(packed),
      new Loader(new PackedDataset(source, { seqLen: 8 })),
    ]) {
      expect(loader.describe()).toBeUndefined();
      const prefetcher = prefetcherOf(loader);
      expect(prefetcher.numThreads).toBe(0);
      for (const at of [8, 12, 16]) {
        expect(await prefetcher.take(at)).toEqual([loader.batchAt(at, 4)]);
        prefetcher.readAhead();
      }
    }
    expect(new Loader(packed).describe()?.dataset.kind).toBe("packed");
  });

  it("reads ahead by itself, and tells of an error when its batch is needed", async () => {
    let broken = false;
    const read: number[] = [];
    const sample = (index: number) => {
      if (broken) throw new Error("broken");
      read.push(index);
      return { tokens: Int32Array.of(index, 1) };
    };
    const loader = new Loader({ seqLen: 2, numSamples: 99, sample }, { shuffle: false });
    const prefetcher = prefetcherOf(loader, { stride: 2, parts: [{ from: 1, to: 2 }] });
    await prefetcher.take(10);
    prefetcher.readAhead();
    expect(read).toEqual([11, 13]);
    await prefetcher.take(12);
    expect(read).toEqual([11, 13]);
    broken = true;
    prefetcher.readAhead();
    expect(await rejectionOf(prefetcher.take(14))).toMatch(/broken/);
    broken = false;
    await prefetcher.take(14);
    expect(read).toEqual([11, 13, 15]);
  });

  it("starts a thread by itself where reading takes long, and only there", async () => {
    const slow = prefetcherOf(new Loader(new SlowDataset(sharedMemory())), { workers: "auto" });
    const quick = prefetcherOf(new Loader(new ModuleDataset(sharedMemory())), { workers: "auto" });
    expect(slow.numThreads).toBe(0);
    for (let at = 0; at < 32; at += 4) {
      for (const prefetcher of [slow, quick]) {
        await prefetcher.take(at);
        prefetcher.readAhead();
      }
    }
    expect([slow.numThreads, quick.numThreads]).toEqual([1, 0]);
    await warm(slow, 4, 32);
  });

  it("opens datasets by class, by function and by promise", async () => {
    const module = new URL("./module-dataset.ts", import.meta.url);
    const shared = sharedMemory();
    for (const name of ["ModuleDataset", "openLater"]) {
      const dataset = await openDataset({ kind: "module", module, export: name, args: [shared] });
      expect(dataset.sample(5).tokens[2]).toBe(15);
    }
  });

  it("ends its threads when it is closed, also in the middle of a read", async () => {
    const shared = sharedMemory(0);
    const prefetcher = prefetcherOf(faulty({ sample: 9, how: "stuck" }, shared), { workers: 2 });
    const position = await warm(prefetcher);
    shared[FAULTS_LEFT] = 1e6;
    const stuck = firstFailure(prefetcher, position);
    await vi.waitUntil(() => shared[FAULTS_LEFT] < 1e6);
    await sleep(20);
    prefetcher.close();
    expect(await stuck).toMatch(/^DATA_WORKER .*closed/);
    await stopsBeating(shared);
    expect(prefetcher.numThreads).toBe(0);
    // Who goes on all the same reads here.
    expect((await prefetcher.take(0))[0].batch).toBe(4);
    expect(prefetcher.numThreads).toBe(0);
  });

  it("leaves nothing behind", async () => {
    const { file } = tokenFile();
    const used = async (prefetchers: number, steps: number) => {
      for (let i = 0; i < prefetchers; i++) {
        using prefetcher = prefetcherOf(new Loader(new PackedDataset(file, packing)), {
          stride: 64,
          parts: [{ from: 0, to: 64 }],
        });
        const position = await warm(prefetcher, 64);
        vi.restoreAllMocks();
        for (let step = 0; step < steps; step++) await prefetcher.take(position + 64 * step);
      }
      open.length = 0;
      await sleep(100);
      collectGarbage();
      const { arrayBuffers, heapUsed } = process.memoryUsage();
      return { arrayBuffers, heapUsed };
    };
    const before = await used(1, 500); // 4 KB of tokens a step
    const after = await used(3, 500);
    expect(after.arrayBuffers - before.arrayBuffers).toBeLessThan(1e6);
    expect(after.heapUsed - before.heapUsed).toBeLessThan(4e6);
  });

  it("keeps a process alive only while a step waits", () => {
    const script = join(temporaryFolder(), "waits.mts");
    const lib = new URL("../../lib/data/", import.meta.url).href;
    const dataset = new URL("./module-dataset.ts", import.meta.url).href;
    writeFileSync(
      script,
      `import { Loader } from "${lib}loader.ts";
      import { Prefetcher } from "${lib}prefetcher.ts";
      import { ModuleDataset, READ, sharedMemory } from "${dataset}";
      const shared = sharedMemory();
      const p = new Prefetcher(new Loader(new ModuleDataset(shared)), { stride: 1, parts: [{ from: 0, to: 1 }], workers: 1 });
      let at = 0;
      while (shared[READ] < 50) await p.take(at++);
      console.log("done");`,
    );
    const child = spawnSync(process.execPath, ["--import", import.meta.resolve("tsx"), script], {
      encoding: "utf8",
      timeout: 600_000,
    });
    expect(child).toMatchObject({ status: 0, stdout: "done\n" });
  });
});

async function stopsBeating(shared: Int32Array): Promise<void> {
  await vi.waitUntil(
    async () => {
      const before = shared[BEATS];
      await sleep(60);
      return shared[BEATS] === before;
    },
    { timeout: 3000, interval: 10 },
  );
}
