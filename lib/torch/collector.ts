import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { type Handle, native } from "./native.js";

// Tensors outside every scope go when their objects do. The addon holds a weak reference to each and frees those whose
// object is gone: between tasks, after V8 has collected garbage, and in the middle of a task when they take so much memory
// that garbage must be collected now. V8 alone would see objects of a few bytes each, and no reason to hurry.

type CollectGarbage = (options?: { type: "minor" }) => void;

let collectGarbage: CollectGarbage | undefined;

function garbageCollector(): CollectGarbage {
  if (collectGarbage === undefined) {
    setFlagsFromString("--expose-gc"); // for contexts made from here on
    collectGarbage = runInNewContext("gc") as CollectGarbage;
    setFlagsFromString("--no-expose-gc");
  }
  return collectGarbage;
}

let collected = 0;

/** How many tensors were freed here so far because their objects were gone. */
export function collectedTensors(): number {
  return collected;
}

function sweep(): void {
  collected += native.sweep();
}

// An object that nobody holds: when it goes, garbage was collected.
let waiting = false;
const afterCollection = new FinalizationRegistry<void>(() => {
  waiting = false;
  sweep();
  if (native.watchedBytes() > 0) wait();
});

function wait(): void {
  waiting = true;
  afterCollection.register({}, undefined);
}

/** Leaves a tensor to the garbage collector. */
export function leaveToCollector(tensor: object, handle: Handle): void {
  if (native.watch(tensor, handle)) collectNow();
  if (!waiting) wait();
}

/** Frees what nobody can reach any more, by the cheapest means that frees much. */
function collectNow(): void {
  const before = native.watchedBytes();
  const enough = () => native.watchedBytes() < before / 2;
  sweep(); // V8 may have collected by itself since
  if (!enough()) {
    garbageCollector()({ type: "minor" });
    sweep();
  }
  if (!enough()) {
    garbageCollector()();
    sweep();
  }
  native.settle();
}
