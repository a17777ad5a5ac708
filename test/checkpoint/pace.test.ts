import { performance } from "node:perf_hooks";
import { Worker } from "node:worker_threads";
import { expect, it } from "vitest";
import { CANCELLED, HURRIED, Pace, signal } from "../../lib/checkpoint/pace.js";

const state = () => new Int32Array(new SharedArrayBuffer(4));

/** Works for some milliseconds. */
function work(milliseconds: number): void {
  const end = performance.now() + milliseconds;
  while (performance.now() < end);
}

/** How long a function takes, in milliseconds. */
function timeOf(run: () => void): number {
  const start = performance.now();
  run();
  return performance.now() - start;
}

it("a thread that paces itself rests longer than it works, until somebody waits", () => {
  const shared = state();
  const pace = new Pace(shared, 200);
  pace.start();
  work(1);
  expect(timeOf(pace.pause)).toBeGreaterThan(190);
  work(20); // a rest would take four seconds
  signal(shared, HURRIED);
  expect(timeOf(pace.pause)).toBeLessThan(2000);
});

it("waiting for the disk, or for the next message, is no work to rest from", () => {
  const pace = new Pace(state(), 20);
  work(600); // to rest from it would take twelve seconds
  expect(timeOf(pace.pause)).toBeLessThan(6000);
  work(600);
  pace.start();
  expect(timeOf(pace.pause)).toBeLessThan(6000);
});

it("a rest ends at once when another thread says so", async () => {
  const [shared, go] = [state(), state()];
  const other = new Worker(
    `const { workerData: { shared, go } } = require("node:worker_threads");
     Atomics.wait(go, 0, 0);
     Atomics.wait(go, 0, 1, 50);
     Atomics.store(shared, 0, ${HURRIED});
     Atomics.notify(shared, 0);`,
    { eval: true, workerData: { shared, go } },
  );
  await new Promise((done) => other.once("online", done));
  const pace = new Pace(shared, 10_000);
  work(1);
  Atomics.store(go, 0, 1);
  Atomics.notify(go, 0);
  const rest = timeOf(pace.pause);
  expect(rest).toBeGreaterThan(40);
  expect(rest).toBeLessThan(5000);
  await other.terminate();
});

it("work that is given up ends after its piece", () => {
  const shared = state();
  const pace = new Pace(shared, 2);
  signal(shared, CANCELLED);
  signal(shared, HURRIED);
  expect(pace.pause).toThrow(/given up/);
});
