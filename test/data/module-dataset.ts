import { isMainThread } from "node:worker_threads";
import type { Dataset, DatasetDescription, Sample } from "../../lib/data/index.js";

/** What goes wrong, and only in threads that read ahead. */
export interface Fault {
  readonly sample: number;
  readonly how: "error" | "string" | "short" | "exit" | "later" | "stuck";
}

/** Places in {@link Shared}. */
export const READ = 0;
export const FAULTS_LEFT = 1;
export const BEATS = 2;
export const STARTED = 3;

/** Memory that a test shares with its dataset in other threads. */
export function sharedMemory(faults = 1e6): Int32Array {
  const shared = new Int32Array(new SharedArrayBuffer(16));
  shared[FAULTS_LEFT] = faults;
  return shared;
}

/** A user's own dataset, in a module that threads can import. */
export class ModuleDataset implements Dataset {
  readonly seqLen = 4;
  readonly hash = "module";

  constructor(
    readonly shared: Int32Array,
    readonly fault?: Fault,
    readonly numSamples = 23,
  ) {
    if (isMainThread) return;
    Atomics.add(shared, STARTED, 1);
    setInterval(() => Atomics.add(shared, BEATS, 1), 5);
  }

  sample(index: number): Sample {
    if (!isMainThread) {
      Atomics.add(this.shared, READ, 1);
      if (this.fault?.sample === index && Atomics.sub(this.shared, FAULTS_LEFT, 1) > 0) return fail(this.fault.how);
    }
    return { tokens: Int32Array.of(index, index * 2, index * 3, index * 4).map((id) => id % 48) };
  }

  describe(): DatasetDescription {
    const args = [this.shared, this.fault, this.numSamples];
    return { kind: "module", module: new URL(import.meta.url), export: "ModuleDataset", args };
  }
}

/** As a function, and a promise. */
export async function openLater(shared: Int32Array): Promise<Dataset> {
  return new ModuleDataset(shared);
}

/** Takes so long that a thread is worth it. */
export class SlowDataset extends ModuleDataset {
  override sample(index: number): Sample {
    const end = performance.now() + 4;
    while (performance.now() < end);
    return super.sample(index);
  }

  override describe(): DatasetDescription {
    return { kind: "module", module: import.meta.url, export: "SlowDataset", args: [this.shared] };
  }
}

function fail(how: Fault["how"]): Sample {
  switch (how) {
    case "error":
      throw Object.assign(new RangeError("no such thing"), { code: "MY_CODE" });
    case "string":
      throw "just words";
    case "short":
      return { tokens: new Int32Array(3) };
    case "exit":
      return process.exit(7);
    case "later":
      setImmediate(() => {
        throw new Error("thrown later");
      });
      return { tokens: new Int32Array(4) };
    case "stuck":
      for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000);
  }
}
