import { describe, expect, it } from "vitest";
import * as torch from "../../lib/torch/index.js";
import { device, Hog, memory, onGpu, record, relativeError, synchronize } from "./support.js";

const MB = 2 ** 20;

describe.runIf(onGpu)("device memory", () => {
  it("is counted: what tensors hold, the most there was, what the allocator keeps", () => {
    torch.cuda.emptyCache();
    const start = torch.cuda.memoryStats();
    torch.cuda.resetPeakMemoryStats();
    const tensor = torch.empty([64, MB], { device, dtype: "uint8" });
    const held = torch.cuda.memoryStats();
    expect(held.allocated - start.allocated).toBe(64 * MB);
    expect(held.reserved).toBeGreaterThanOrEqual(held.allocated);
    expect(held.total).toBeGreaterThan(held.free);
    expect(torch.memory().device).toBeGreaterThanOrEqual(64 * MB);
    tensor.dispose();
    const after = torch.cuda.memoryStats();
    expect(after.allocated).toBe(start.allocated);
    expect(after.peakAllocated - start.allocated).toBe(64 * MB);
    expect(after.reserved).toBe(held.reserved); // kept for the next one
    torch.cuda.emptyCache();
    expect(torch.cuda.memoryStats().reserved).toBeLessThan(held.reserved);
  });

  it("running out is an error with a code, and work goes on", () => {
    const { total } = torch.cuda.memoryStats();
    expect(() => torch.empty([Math.ceil(total / MB) + 1, MB], { device, dtype: "uint8" })).toThrow(
      expect.objectContaining({ code: "TORCH_OUT_OF_MEMORY" }),
    );
    expect(torch.scope(() => torch.ones([3], { device }).sum().item())).toBe(3);
  });
});

describe("lifetime on the device", () => {
  it("10,000 operators inside scopes leave nothing behind", () => {
    const x = torch.randn([256, 256], { device });
    const before = { ...torch.memory(), allocated: memory.allocated() };
    for (let i = 0; i < 100; i++) {
      torch.scope(() => {
        let y = x;
        for (let k = 0; k < 100; k++) y = y.add(1);
      });
    }
    expect(torch.memory().tensors).toBe(before.tensors);
    expect(memory.allocated()).toBe(before.allocated);
    x.dispose();
  });

  it("a tensor that was freed while a copy of it is on its way keeps its values until then", async () => {
    const expected = torch.randn([1000, 257]);
    const here = expected.to({ device, copy: true });
    const reading = here.transpose(0, 1).toTypedArrayAsync(); // not contiguous
    here.dispose();
    torch.scope(() => torch.zeros([1000, 257], { device })); // would take the memory
    const read = torch.tensor(await reading).view([257, 1000]);
    expect(read.equal(expected.transpose(0, 1))).toBe(true);
  });
});

describe("copies", () => {
  it("from page-locked memory wait for nothing, and arrive whole", () => {
    const hog = new Hog();
    const numbers = Float32Array.from({ length: 1 << 20 }, (_, i) => i % 1000);
    const upload = () => torch.tensor(numbers, { device, pinMemory: onGpu });
    upload().dispose(); // the page-locked block is there from now on
    synchronize();
    if (onGpu) hog.work(1000);
    const start = performance.now();
    const tensor = upload();
    const asked = performance.now() - start;
    expect(asked).toBeLessThan(500);
    numbers.fill(-1); // the tensor has its own
    expect(tensor.narrow(0, 0, 3).tolist()).toEqual([0, 1, 2]);
    expect(tensor.sum().item()).toBeGreaterThan(0);
    hog.dispose();
  });

  it("of every dtype are exact, there and back", () => {
    for (const dtype of [
      "bool",
      "uint8",
      "int8",
      "int16",
      "int32",
      "int64",
      "float16",
      "bfloat16",
      "float32",
      "float64",
    ] as const) {
      torch.scope(() => {
        const there = torch.randint(0, 2, [7, 33]).to(dtype);
        expect(there.to(device).transpose(0, 1).cpu().equal(there.transpose(0, 1)), dtype).toBe(true);
        expect(relativeError(there.to(device), there)).toBe(0);
      });
    }
  });
});

describe("itemAsync", () => {
  it.runIf(onGpu)("leaves the event loop free while the device works", async () => {
    const hog = new Hog();
    const x = torch.ones([1000], { device });
    await x.sum().itemAsync(); // what is needed is there from now on
    hog.work(600);
    const start = performance.now();
    const promise = x.sum().itemAsync();
    const asked = performance.now() - start;
    let ticks = 0;
    const timer = setInterval(() => ticks++, 10);
    expect(await promise).toBe(1000);
    const took = performance.now() - start;
    clearInterval(timer);
    expect(asked).toBeLessThan(100);
    expect(took).toBeGreaterThan(300); // else the device was not busy, and this proves nothing
    expect(ticks).toBeGreaterThan(took / 40);
    record(
      "itemAsync behind other work: asked for in, there after",
      `${asked.toFixed(2)} ms, ${took.toFixed(0)} ms; the event loop turned ${ticks} times`,
    );
    hog.dispose();
  });

  it("reads bfloat16, integers and booleans, many at a time", async () => {
    const values = await Promise.all([
      torch.tensor(1.5, { device, dtype: "bfloat16" }).itemAsync(),
      torch.tensor(-7, { device, dtype: "int64" }).itemAsync(),
      torch.tensor(true, { device }).itemAsync(),
      ...Array.from({ length: 50 }, (_, i) => torch.full([1, 1], i, { device }).itemAsync()),
    ]);
    expect(values.slice(0, 3)).toEqual([1.5, -7, 1]);
    expect(values.slice(3)).toEqual(Array.from({ length: 50 }, (_, i) => i));
  });
});

describe("how much the binding costs on the device", () => {
  it("host time of one operator", () => {
    const x = torch.ones([8], { device });
    const count = 2000;
    const round = () => {
      synchronize();
      const start = performance.now();
      torch.scope(() => {
        for (let i = 0; i < count; i++) x.add(x);
      });
      return (1000 * (performance.now() - start)) / count;
    };
    round();
    const best = Math.min(round(), round(), round());
    synchronize();
    record("host time of an add of 8 numbers, kernel launch included", `${best.toFixed(2)} µs`);
    expect(best).toBeLessThan(100);
    x.dispose();
  });
});
