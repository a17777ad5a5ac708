// Recording and replaying. A rehearsal has nothing to record with: test/devices takes the engine's graphs there.
import { describe, expect, it } from "vitest";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";
import { device, memory, milliseconds, onGpu, record, synchronize } from "./support.js";

/** Bytes that libtorch keeps for the random numbers of graphs, used or not; the tensors here are far larger. */
const small = 65_536;
const filled = (value: number, size = 1024) => torch.keep(torch.full([size, size], value, { device }));
const first = (tensor: Tensor) => torch.scope(() => tensor.flatten().narrow(0, 0, 1).item());

describe.skipIf(!onGpu)("torch.cuda.CUDAGraph", () => {
  it("computes at every replay, and not before, from what its inputs hold then", () => {
    using x = filled(2);
    using weight = filled(0.5);
    using graph = new torch.cuda.CUDAGraph();
    const work = () => x.matmul(weight).add(1);
    torch.scope(() => expect(first(graph.warmUp(work))).toBe(1025));
    const result = graph.capture(work);
    for (const value of [2, 4, 6]) {
      torch.scope(() => x.copy_(torch.full([1024, 1024], value, { device })));
      graph.replay();
      expect(first(result)).toBe(512 * value + 1);
    }
    // Work of other streams and of the allocator goes on between replays.
    torch.scope(() => torch.randn([2048, 2048], { device }).mul(2).sum().item());
    graph.replay();
    expect(first(result)).toBe(3073);
  });

  it("does nothing in a recording", () => {
    using x = filled(1);
    using graph = new torch.cuda.CUDAGraph();
    graph.capture(() => void x.add_(1));
    expect(first(x)).toBe(1);
    graph.replay();
    graph.replay();
    expect(first(x)).toBe(3);
  });

  it("a recording that fails leaves the device, the allocator and the graph usable", () => {
    using x = filled(3);
    using graph = new torch.cuda.CUDAGraph();
    const before = memory.allocated();
    const waits: (() => unknown)[] = [() => x.sum().item(), () => x.nonzero(), () => x.cpu()];
    for (const wait of waits) {
      expect(() => graph.capture(wait)).toThrow();
      torch.scope(() => expect(x.mul(2).sum().item()).toBe(6 * 1024 * 1024));
    }
    expect(() =>
      graph.capture(() => {
        x.mul(2);
        throw new RangeError("mine");
      }),
    ).toThrow(RangeError);
    expect(() => graph.replay()).toThrow(/nothing was recorded/);
    synchronize();
    expect(memory.allocated() - before).toBeLessThan(small);
    const twice = graph.capture(() => x.mul(2));
    expect(() => graph.capture(() => x.mul(2))).toThrow(/holds a recording already/);
    graph.replay();
    expect(first(twice)).toBe(6);
  });

  it("graphs share the memory of a pool, and give it back", () => {
    using x = filled(1);
    const before = memory.allocated();
    const pool = torch.cuda.graphPoolHandle();
    const plain = Array.from({ length: 8 }, () => {
      const graph = new torch.cuda.CUDAGraph({ pool });
      graph.capture(() => torch.scope(() => void x.copy_(x.mul(2).div(2).add(1))));
      return graph;
    });
    for (const graph of plain) graph.replay();
    expect(first(x)).toBe(9);
    expect(memory.allocated() - before).toBeLessThan(small);
    const results = plain.map(() => new torch.cuda.CUDAGraph({ pool }));
    for (const graph of results) graph.capture(() => x.mul(2));
    const held = memory.allocated() - before - 8 * 4 * 1024 * 1024;
    expect(Math.abs(held)).toBeLessThan(small);
    for (const graph of [...plain, ...results]) graph.dispose();
    expect(memory.allocated() - before).toBeLessThan(small);
    expect(() => plain[0].replay()).toThrow(/disposed/);
  });

  it("launches many small operators as one", () => {
    using x = filled(1, 8);
    using graph = new torch.cuda.CUDAGraph();
    const work = () => torch.scope(() => void Array.from({ length: 200 }, () => x.mul_(1)));
    graph.capture(work);
    const [launched, replayed] = [milliseconds(work), milliseconds(() => graph.replay())];
    record("200 small operators", `${launched.toFixed(2)} ms, as a graph ${replayed.toFixed(2)} ms`);
    expect(replayed).toBeLessThan(launched);
  });
});
