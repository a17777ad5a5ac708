// A process that saves and then ends in some way. Arguments: the run's folder, how it ends, how many ranks it plays, and for
// a kill before which of the writing calls.

import { failWriter } from "../train/faults.js";
import { contentsOf, makeTrained, saveTogether, storesOf } from "./ranks.js";

const [run, how, size, at] = process.argv.slice(2);
const stores = storesOf(run, Number(size));
const whole = makeTrained();
await saveTogether(stores, "step-000001", contentsOf(whole, Number(size), undefined, 1));
const contents = contentsOf(whole, Number(size), undefined, 2);
if (how === "killed") failWriter(Number(at), { end: "killed process" });
if (how !== "idle") {
  const pending = await Promise.all(stores.map((store, rank) => store.begin("step-000002", contents[rank])));
  if (how === "exit") process.exit(0);
  if (how === "killed") {
    const reports = await Promise.all(pending.map(({ done }) => done));
    await stores[0].commit(pending[0], reports);
  }
}
// "unwaited": the save is under way, and nobody waits for it.
console.log("end of the program");
