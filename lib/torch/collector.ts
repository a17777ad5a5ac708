import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { type Handle, native } from "./native.js";

// Tensors outside every scope are freed with their JavaScript objects. The addon holds a weak reference to each object
// and frees the tensors whose object was collected: between tasks, after V8 has collected garbage, and within a task if
// they use so much memory that a collection is forced. V8 by itself sees only objects of a few bytes each and has no
// reason to collect early.

type CollectGarbage = (options?: { type: "minor" }) => void;

let collectGarbage: CollectGarbage | undefined;

function garbageCollector(): CollectGarbage {
  if (collectGarbage === undefined) {
    setFlagsFromString("--expose-gc"); // affects contexts created from here on
    collectGarbage = runInNewContext("gc") as CollectGarbage;
    setFlagsFromString("--no-expose-gc");
  }
  return collectGarbage;
}

let collected = 0;

/** Number of tensors freed so far because their objects were collected. */
export function collectedTensors(): number {
  return collected;
}

function sweep(): void {
  collected += native.sweep();
}

// An unreferenced object: its finalization shows that garbage was collected.
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

/** Registers a tensor to be freed by the garbage collector. */
export function leaveToCollector(tensor: object, handle: Handle): void {
  if (native.watch(tensor, handle)) collectNow();
  if (!waiting) wait();
}

/** Frees unreachable tensors, by the cheapest method that frees enough. */
function collectNow(): void {
  const before = native.watchedBytes();
  const enough = () => native.watchedBytes() < before / 2;
  sweep(); // V8 may have collected garbage by itself since then
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
