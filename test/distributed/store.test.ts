import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  FileStore,
  HashStore,
  initProcessGroup,
  type LaunchEnvironment,
  PrefixStore,
  ProcessGroup,
  type Store,
  TCPStore,
  world,
} from "../../lib/distributed/index.js";
import * as torch from "../../lib/torch/index.js";
import { freePort } from "./support.js";

const host = "127.0.0.1";
const folder = mkdtempSync(join(tmpdir(), "diffcoder-store-"));
let opened: Store[] = [];
let count = 0;

afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(() => {
  for (const store of opened) store.dispose();
  opened = [];
});

function keep<S extends Store>(store: S): S {
  opened.push(store);
  return store;
}

/** Two views of the same memory: what one process sets another sees. */
type Pair = [own: Store, other: Store];
const kinds: Record<string, () => Promise<Pair>> = {
  TCPStore: async () => {
    const server = keep(await TCPStore.connect({ host, port: 0, isServer: true }));
    return [server, keep(await TCPStore.connect({ host, port: server.port }))];
  },
  FileStore: async () => {
    const path = join(folder, `file-${count++}`);
    return [keep(new FileStore(path, 2)), keep(new FileStore(path, 2))];
  },
  HashStore: async () => {
    const store = keep(new HashStore());
    return [store, store];
  },
  "PrefixStore of a TCPStore": async () => {
    const [own, other] = await kinds.TCPStore();
    return [keep(new PrefixStore("part", own)), keep(new PrefixStore("part", other))];
  },
  "PrefixStore of a FileStore": async () => {
    const [own, other] = await kinds.FileStore();
    return [keep(new PrefixStore("part", own)), keep(new PrefixStore("part", other))];
  },
};

describe.each(Object.keys(kinds))("%s", (kind) => {
  let own: Store;
  let other: Store;
  beforeEach(async () => {
    [own, other] = await kinds[kind]();
  });

  it("holds text and bytes, which others see and may replace", async () => {
    own.set("text", "Ünïcödé 🚀");
    expect(await other.getText("text")).toBe("Ünïcödé 🚀");
    other.set("text", "replaced");
    expect(await own.getText("text")).toBe("replaced");
    const bytes = Uint8Array.from({ length: 256 }, (_, i) => 255 - i);
    own.set("bytes", bytes);
    expect(await other.get("bytes")).toEqual(bytes);
    own.set("empty", "");
    expect(await other.get("empty")).toHaveLength(0);
    own.set("key with spaces / and ümlaut", "1");
    expect(await other.getText("key with spaces / and ümlaut")).toBe("1");
  });

  it("holds a megabyte", async () => {
    const bytes = Uint8Array.from({ length: 2 ** 20 }, (_, i) => (i * 7) & 255);
    own.set("large", bytes);
    expect(Buffer.compare(await other.get("large"), bytes)).toBe(0);
  });

  it("counts, also from both sides, also down", () => {
    expect(own.add("count", 3)).toBe(3);
    expect(other.add("count", 4)).toBe(7);
    expect(own.add("count", -10)).toBe(-3);
    expect(other.add("count", 0)).toBe(-3);
    expect(own.add("large", 2 ** 40)).toBe(2 ** 40);
  });

  it("checks without waiting", () => {
    own.set("a", "1");
    expect(own.check(["a"])).toBe(true);
    expect(other.check(["a"])).toBe(true); // the line before has waited for the server
    expect(other.check(["a", "b"])).toBe(false);
    own.set("b", "1");
    expect(own.check(["a", "b"])).toBe(true);
    expect(other.check(["a", "b"])).toBe(true);
  });

  it("waits for what is set later, and lets the event loop go on", async () => {
    const waiting = Promise.all([other.getText("late"), other.wait(["late", "later"], 20)]);
    await sleep(100); // goes on though two wait
    own.set("late", "1");
    own.set("later", "2");
    expect(await waiting).toEqual(["1", undefined]);
  });

  it("ends a wait that takes too long", async () => {
    own.set("there", "1");
    const start = performance.now();
    await expect(other.get("never", 0.3)).rejects.toMatchObject({
      code: "DISTRIBUTED_TIMEOUT",
      message: expect.stringContaining("Store.get('never')"),
    });
    await expect(other.wait(["there", "never"], 0.3)).rejects.toMatchObject({ code: "DISTRIBUTED_TIMEOUT" });
    const seconds = (performance.now() - start) / 1000;
    expect(seconds).toBeGreaterThan(0.55);
    expect(seconds).toBeLessThan(60); // the default is 300; a slow resolver of names may add seconds
    expect(await other.getText("there")).toBe("1"); // it works on
  });

  it("deletes keys", () => {
    own.set("gone", "1");
    own.set("stays", "1");
    expect(own.check(["gone"])).toBe(true);
    expect(other.deleteKey("gone")).toBe(true);
    if (!kind.endsWith("FileStore")) expect(other.deleteKey("gone")).toBe(false);
    expect(own.check(["gone"])).toBe(false);
    expect(own.check(["stays"])).toBe(true);
  });

  it("sets a key only if it holds what is expected", () => {
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    expect(text(own.compareSet("key", "", "first"))).toBe("first");
    expect(text(other.compareSet("key", "", "second"))).toBe("first");
    expect(text(other.compareSet("key", "other", "third"))).toBe("first");
    expect(text(other.compareSet("key", "first", "fourth"))).toBe("fourth");
    expect(text(own.compareSet("absent", "expected", "desired"))).toBe("expected");
    expect(own.check(["absent"])).toBe(false);
  });

  it("is closed once", async () => {
    own.dispose();
    own.dispose();
    expect(() => own.set("a", "1")).toThrowError(expect.objectContaining({ code: "DISTRIBUTED_STATE" }));
    await expect(own.get("a")).rejects.toMatchObject({ code: "DISTRIBUTED_STATE" });
  });
});

describe("many waits at once", () => {
  it("take no thread away from files", async () => {
    const [own, other] = await kinds.TCPStore();
    const keys = Array.from({ length: 8 }, (_, i) => `key-${i}`);
    const waiting = Promise.all(keys.map((key) => other.getText(key, 20)));
    // libuv's pool has four threads: were they waiting, this would wait for a key that is set after it.
    expect(await readFile(new URL(import.meta.url), "utf8")).toContain("many waits at once");
    for (const key of keys) own.set(key, key);
    expect(await waiting).toEqual(keys);
  });
});

describe("PrefixStore", () => {
  it("keeps its keys apart from others'", async () => {
    using base = new HashStore();
    using left = new PrefixStore("left", base);
    using right = new PrefixStore("right", base);
    using inner = new PrefixStore("inner", left);
    left.set("key", "l");
    right.set("key", "r");
    inner.set("key", "i");
    expect(await Promise.all([left, right, inner].map((store) => store.getText("key")))).toEqual(["l", "r", "i"]);
    expect(base.check(["key"])).toBe(false);
    expect(await base.getText("left/key")).toBe("l");
    expect(await base.getText("left/inner/key")).toBe("i");
  });

  it("outlives the object whose part it is", async () => {
    const base = new HashStore();
    using part = new PrefixStore("part", base);
    base.dispose();
    part.set("key", "1");
    expect(await part.getText("key")).toBe("1");
  });
});

describe("FileStore", () => {
  it("goes on where another left off, and removes its file with the last process", async () => {
    const path = join(folder, "kept");
    const first = new FileStore(path, 2);
    first.set("key", "1");
    const second = new FileStore(path, 2);
    first.dispose();
    expect(await second.getText("key", 1)).toBe("1");
    expect(existsSync(path)).toBe(true);
    second.dispose();
    expect(existsSync(path)).toBe(false);
  });

  it("says so when the file cannot be", () => {
    for (const path of [join(folder, "no", "such", "folder"), folder]) {
      expect(() => new FileStore(path)).toThrowError(expect.objectContaining({ code: "DISTRIBUTED_ARGUMENT" }));
    }
  });
});

describe("TCPStore", () => {
  it("takes a free port for 0, and says which", async () => {
    const a = keep(await TCPStore.connect({ host, port: 0, isServer: true }));
    const b = keep(await TCPStore.connect({ host, port: 0, isServer: true }));
    expect(a.port).toBeGreaterThan(1023);
    expect(b.port).not.toBe(a.port);
    a.set("key", "a");
    expect(b.check(["key"])).toBe(false);
  });

  it.skipIf(!existsSync("/proc/self/net/tcp"))("listens at the address given and at no other", async () => {
    const addresses = (port: number) => {
      const lines = ["tcp", "tcp6"].flatMap((kind) =>
        readFileSync(`/proc/self/net/${kind}`, "utf8").split("\n").slice(1),
      );
      const listening = lines.map((line) => line.trim().split(/\s+/)).filter(([, , , state]) => state === "0A");
      const own = listening.map(([, local]) => local.split(":")).filter(([, hex]) => Number.parseInt(hex, 16) === port);
      return own.map(([address]) => address);
    };
    const [loopback, every] = ["0100007F", "00000000"];
    expect(addresses(keep(await TCPStore.connect({ host, port: 0, isServer: true })).port)).toEqual([loopback]);
    const all = keep(await TCPStore.connect({ host, listenHost: "0.0.0.0", port: 0, isServer: true }));
    expect(addresses(all.port)).toEqual([every]);
    expect(keep(await TCPStore.connect({ host, port: all.port })).port).toBe(all.port);
    await expect(TCPStore.connect({ host: "203.0.113.7", port: 0, isServer: true, timeout: 5 })).rejects.toMatchObject({
      code: "DISTRIBUTED_PEER",
      message: expect.stringContaining("no address of this machine"),
    });
    await expect(
      TCPStore.connect({ host: "nowhere.invalid", port: 0, isServer: true, timeout: 5 }),
    ).rejects.toMatchObject({ code: "TORCH_VALUE", message: expect.stringContaining("no known name") });
  });

  it("refuses a port that is taken, and one that is none", async () => {
    const { port } = keep(await TCPStore.connect({ host, port: 0, isServer: true }));
    await expect(TCPStore.connect({ host, port, isServer: true, timeout: 5 })).rejects.toMatchObject({
      code: "DISTRIBUTED_PEER",
      message: expect.stringMatching(new RegExp(`TCPStore at ${host}:${port}.*address already in use`, "i")),
    });
    for (const wrong of [-1, 65536, 1.5, Number.NaN]) {
      await expect(TCPStore.connect({ host, port: wrong })).rejects.toMatchObject({ code: "DISTRIBUTED_ARGUMENT" });
    }
  });

  it("is there when its server comes later, and gives up in time when nobody does", async () => {
    const port = await freePort();
    const joining = TCPStore.connect({ host, port, timeout: 20 });
    await sleep(200);
    const server = keep(await TCPStore.connect({ host, port, isServer: true }));
    server.set("key", "1");
    expect(await keep(await joining).getText("key")).toBe("1");

    const start = performance.now();
    await expect(TCPStore.connect({ host, port: await freePort(), timeout: 1 })).rejects.toMatchObject({
      code: "DISTRIBUTED_TIMEOUT",
    });
    expect((performance.now() - start) / 1000).toBeLessThan(6);
  });

  it("tells when its server is gone", async () => {
    const [server, client] = await kinds.TCPStore();
    client.set("key", "1");
    server.dispose();
    await sleep(100);
    expect(() => client.check(["key"])).toThrowError(expect.objectContaining({ code: "DISTRIBUTED_PEER" }));
    await expect(client.get("key", 1)).rejects.toMatchObject({ code: expect.stringMatching(/^DISTRIBUTED_/) });
  });

  it("refuses a timeout that is none", async () => {
    for (const timeout of [0, -1, Number.NaN]) {
      await expect(TCPStore.connect({ host, port: 1, timeout })).rejects.toMatchObject({ code: "TORCH_VALUE" });
    }
  });
});

describe("a group", () => {
  it("whose members do not come names them, in time", async () => {
    using store = new HashStore();
    const start = performance.now();
    await expect(ProcessGroup.create(store, 1, 3, { timeout: 0.5, ranks: [4, 5, 9] })).rejects.toMatchObject({
      code: "DISTRIBUTED_TIMEOUT",
      message: "joining group 'world' as rank 1 of 3: ranks 4, 9 of 3 did not arrive within 0.5 s",
    });
    expect((performance.now() - start) / 1000).toBeLessThan(5);
  });

  it("has a rank below its size, and a backend that this build has", async () => {
    using store = new HashStore();
    for (const [rank, size] of [
      [2, 2],
      [-1, 2],
      [0.5, 2],
      [0, 0],
      [0, 1.5],
    ]) {
      await expect(ProcessGroup.create(store, rank, size)).rejects.toMatchObject({ code: "DISTRIBUTED_ARGUMENT" });
    }
    if (torch.build().cuda) return;
    await expect(ProcessGroup.create(store, 0, 1, { backend: "nccl" })).rejects.toMatchObject({
      code: "DISTRIBUTED_ARGUMENT",
      message: expect.stringContaining("CUDA build"),
    });
  });

  it("of one does every collective with itself", async () => {
    using store = new HashStore();
    const group = await ProcessGroup.create(store, 0, 1);
    await torch.scope(async () => {
      const x = torch.tensor([3, 4]);
      const same = () => [...(x.toTypedArray() as Float32Array)];
      await group.allReduce(x, { op: "avg" });
      await group.broadcast(x);
      await group.reduce(x);
      const out = torch.zeros([2]);
      for (const work of [
        () => group.allGather(out, x),
        () => group.reduceScatter(out, x),
        () => group.allToAll(out, x),
        () => group.allGatherList([out], x),
        () => group.gather(x, { outputs: [out] }),
        () => group.scatter(out, { inputs: [x] }),
      ]) {
        out.zero_();
        await work();
        expect(out.tolist()).toEqual([3, 4]);
      }
      await group.barrier();
      await group.monitoredBarrier();
      expect(await group.allGatherObject({ a: 1 })).toEqual([{ a: 1 }]);
      expect(same()).toEqual([3, 4]);
    });
    await group.destroy();
    await group.destroy();
    expect(() => group.barrier()).toThrowError(expect.objectContaining({ code: "DISTRIBUTED_STATE" }));
  });
});

describe("initProcessGroup", () => {
  const environment = (changes: Partial<LaunchEnvironment>): LaunchEnvironment => ({
    rank: 0,
    worldSize: 2,
    localRank: 0,
    localWorldSize: 2,
    masterAddr: host,
    masterPort: 1,
    restartCount: 0,
    maxRestarts: 0,
    launcher: "env",
    storeIsHosted: false,
    ...changes,
  });

  it("names who did not come, and leaves the port free for another attempt", async () => {
    const masterPort = await freePort();
    for (let attempt = 0; attempt < 2; attempt++) {
      const joining = initProcessGroup({ backend: "gloo", timeout: 0.5, environment: environment({ masterPort }) });
      await expect(joining).rejects.toMatchObject({
        code: "DISTRIBUTED_TIMEOUT",
        message: "joining as rank 0 of 2: rank 1 of 2 did not arrive within 0.5 s",
      });
      expect(world()).toBeUndefined();
    }
  });

  it("says where rank 0 was looked for", async () => {
    const masterPort = await freePort();
    const own = environment({ masterPort, rank: 1 });
    await expect(initProcessGroup({ backend: "gloo", timeout: 1, environment: own })).rejects.toMatchObject({
      code: "DISTRIBUTED_TIMEOUT",
      message: expect.stringContaining(`rank 0's store at ${host}:${masterPort} did not respond within 1 s`),
    });
  });
});

afterEach(() => {
  if (world()) throw new Error("a test left a world behind");
});

process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
