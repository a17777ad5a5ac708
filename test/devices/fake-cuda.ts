import { type NativeOverload, native } from "../../lib/torch/native.js";

// A CUDA device in name only: tensors that are asked for on "cuda" are made on the CPU and remembered as being elsewhere.
// What a real device would refuse (an operator on tensors of two devices) throws, and what would make the host wait for it is
// counted. So a machine without a GPU can tell whether a training step or a sampler would run on one.

/** Operators whose result, or the size of it, depends on values: on a device the host waits for them. */
const WAITS = new Set(
  "item _local_scalar_dense is_nonzero nonzero masked_select unique_dim _unique2 unique_consecutive equal allclose bincount".split(
    " ",
  ),
);
/** These take tensors of two devices. */
const COPIES = new Set(["copy_", "_foreach_copy_", "to", "_to_copy"]);

/** What the host did that had to do with the device. */
export interface DeviceFacts {
  /** Places where the host waits: an operator's name, or "read" (readAsync: the one wait that does not block). */
  waits: Record<string, number>;
  /** Operators called with a tensor of the device. */
  operators: number;
}

const FAKE = "cuda:0";
const isFake = (device: unknown): boolean => typeof device === "string" && /^cuda(:\d+)?$/.test(device);

type Patch = Partial<typeof native>;

/** Puts the device in place until it is disposed. One at a time, and no other test in the process. */
export class FakeCuda implements Disposable {
  readonly #on = new Set<number>();
  readonly #pinned = new Set<number>();
  readonly #known = new Map<number, { name: string; overload: NativeOverload }>();
  readonly #real = { ...native };
  #facts: DeviceFacts = { waits: {}, operators: 0 };
  /** Graphs, which run their work again. */
  readonly #graphs = new Map<number, () => void>();
  #lastGraph = 0;
  #recording = false;

  constructor() {
    Object.assign(native, this.#patch());
  }

  /** What happened since the last call. */
  take(): DeviceFacts {
    const facts = this.#facts;
    this.#facts = { waits: {}, operators: 0 };
    return facts;
  }

  /** Graphs that are not disposed. */
  get graphs(): number {
    return this.#graphs.size;
  }

  [Symbol.dispose](): void {
    Object.assign(native, this.#real);
  }

  #wait(what: string): void {
    if (this.#recording) throw new Error(`${what} waits for the device, which cannot be recorded`);
    this.#facts.waits[what] = (this.#facts.waits[what] ?? 0) + 1;
  }

  /** Remembers that a handle's tensor is where another's is. */
  #follow(handle: unknown, onDevice: boolean): void {
    if (onDevice && typeof handle === "number") this.#on.add(handle);
  }

  #read(what: string, handle: number): void {
    if (this.#on.has(handle)) this.#wait(what);
  }

  #patch(): Patch {
    const real = this.#real;
    return {
      device: (handle) => (this.#on.has(handle) ? FAKE : real.device(handle)),
      fromBytes: (data, ndim, code, pinned) => {
        if (this.#recording) throw new Error("data of the host would be part of the recording");
        const handle = real.fromBytes(data, ndim, code, false);
        if (pinned) this.#pinned.add(handle);
        return handle;
      },
      overloads: (name) => {
        const found = real.overloads(name);
        for (const overload of found) this.#known.set(overload.id, { name: name.split("::")[1], overload });
        return found;
      },
      call: (id, ...args) => this.#call(id, args),
      index: (handle, count) => {
        this.#checkIndices("index", handle, count);
        const result = real.index(handle, count);
        this.#follow(result, this.#on.has(handle));
        return result;
      },
      indexPut: (handle, count, value, isTensor, accumulate) => {
        this.#checkIndices("indexPut_", handle, count);
        real.indexPut(handle, count, value, isTensor, accumulate);
      },
      item: (handle) => {
        this.#read("item", handle);
        return real.item(handle);
      },
      readInto: (handle, target) => {
        this.#read("readInto", handle);
        real.readInto(handle, target);
      },
      readAsync: (handle, target) => {
        this.#read("read", handle);
        return real.readAsync(handle, target);
      },
      share: (handle) => {
        const result = real.share(handle);
        this.#follow(result, this.#on.has(handle));
        return result;
      },
      getGrad: (handle) => {
        const result = real.getGrad(handle);
        this.#follow(result, this.#on.has(handle));
        return result;
      },
      setGrad: (handle, gradient) => {
        if (gradient !== 0 && this.#on.has(handle) !== this.#on.has(gradient))
          throw new Error("setGrad: the gradient is on another device than its tensor");
        real.setGrad(handle, gradient);
      },
      grad: (outputs, inputs, ...rest) => {
        const result = real.grad(outputs, inputs, ...rest);
        result.forEach((handle, i) => {
          this.#follow(handle, this.#on.has(inputs[i]));
        });
        return result;
      },
      enterAutocast: (device, enabled, code) => real.enterAutocast(isFake(device) ? "cpu" : device, enabled, code),
      leaveAutocast: (device, enabled, code) => real.leaveAutocast(isFake(device) ? "cpu" : device, enabled, code),
      createGenerator: (device, seed) => {
        if (isFake(device))
          throw new Error("a generator of the device: seeds would mean something else than on the CPU");
        return real.createGenerator(device, seed);
      },
      cudaGraphPool: () => 1,
      cudaGraphCreate: () => {
        this.#graphs.set(++this.#lastGraph, () => {
          throw new Error("nothing was recorded");
        });
        return this.#lastGraph;
      },
      cudaGraphWarmUp: (_, run) => run(),
      cudaGraphCapture: (graph, run) => this.#record(graph, run),
      cudaGraphReplay: (graph) => this.#graphs.get(graph)?.(),
      cudaGraphFree: (graph) => this.#graphs.delete(graph),
      cudaDeviceCount: () => 1,
      cudaCurrentDevice: () => 0,
      cudaSynchronize: () => this.#wait("synchronize"),
      cudaDeviceProperties: () => ({ name: "none", major: 9, minor: 0, totalMemory: 0, multiProcessorCount: 1 }),
      cudaMemoryStats: () => ({ allocated: 0, reserved: 0, peakAllocated: 1, peakReserved: 1, free: 0, total: 0 }),
    };
  }

  /** What a real device would compute at the first replay is computed at once, too: it is the same. */
  #record(graph: number, run: () => void): void {
    this.#recording = true;
    try {
      run();
      this.#graphs.set(graph, run);
    } finally {
      this.#recording = false;
    }
  }

  #checkIndices(operator: string, handle: number, count: number): void {
    for (let i = 0; i < count; i++) {
      const [kind, index] = native.scratch.subarray(i * 4, i * 4 + 2);
      if (kind !== 5) continue; // lib/torch/indexing.ts: a tensor
      if (this.#on.has(index) !== this.#on.has(handle)) throw new Error(`${operator}: an index is on another device`);
      if (this.#on.has(handle) && this.#real.dtype(index) === 11) this.#wait(`${operator} by booleans`);
    }
  }

  #call(id: number, args: unknown[]): unknown {
    const known = this.#known.get(id);
    if (known === undefined) throw new Error(`operator ${id} was looked up before the fake device was there`);
    const { name, overload } = known;
    const tensors: number[] = [];
    let device: string | undefined;
    let nonBlocking = false;
    let scratchAt = 0;
    const passed = args.map((value, i) => {
      const argument = overload.arguments[i];
      if (argument.list && typeof value === "number") {
        if (argument.kind === "Tensor") tensors.push(...native.scratch.subarray(scratchAt, scratchAt + value));
        scratchAt += value;
      } else if (argument.kind === "Tensor") {
        const handles = Array.isArray(value) ? value : [value];
        tensors.push(...handles.filter((handle): handle is number => typeof handle === "number"));
      } else if (argument.kind === "device" && typeof value === "string") {
        device = value;
        return isFake(value) ? "cpu" : value;
      } else if (argument.name === "pin_memory") return undefined;
      else if (argument.name === "non_blocking") nonBlocking = value === true;
      return value;
    });
    const present = tensors.filter((handle) => handle > 0);
    const here = present.filter((handle) => this.#on.has(handle));
    if (here.length > 0) this.#facts.operators++;
    const mixed = here.length > 0 && here.length < present.length;
    if (mixed && this.#recording) throw new Error(`${name}: a copy from the host would be part of the recording`);
    if (mixed && !COPIES.has(name)) {
      const shapes = present.map((handle) => `${this.#on.has(handle) ? "cuda" : "cpu"} [${this.#shapeOf(handle)}]`);
      throw new Error(`${overload.schema}: tensors of two devices: ${shapes.join(", ")}`);
    }
    if (here.length > 0 && WAITS.has(name)) this.#wait(name);
    const onDevice = device === undefined ? here.length > 0 : isFake(device);
    if (name === "copy_" ? mixed : device !== undefined && present.length > 0 && onDevice !== here.length > 0) {
      const source = present[present.length - 1];
      if (!(nonBlocking && (this.#pinned.has(source) || this.#on.has(source)))) this.#wait(`copy (${name})`);
    }
    // What stays on the CPU in truth is copied all the same: the two places must not share memory.
    const copy = overload.arguments.findIndex((argument) => argument.name === "copy");
    if (copy >= 0 && onDevice !== here.length > 0) passed[copy] = true;
    const result = this.#real.call(id, ...passed);
    for (const handle of Array.isArray(result) ? result.flat() : [result]) this.#follow(handle, onDevice);
    return result;
  }

  #shapeOf(handle: number): string {
    return Array.from(native.scratch.slice(0, this.#real.shape(handle))).join(",");
  }
}
