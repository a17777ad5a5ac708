// A training process that kills itself in the middle of its second checkpoint, as a power cut would.
// Arguments: the run's folder, and before which of the checkpoint's writing calls.

import { Curriculum } from "../../lib/train/index.js";
import { failWriter } from "./faults.js";
import { tinyModel, tinyStages } from "./tiny.js";

const [out, at] = process.argv.slice(2);
const run = new Curriculum(tinyStages()).run({
  model: tinyModel(),
  outputDir: out,
  seed: 3,
  sinks: [],
  checkpointEvery: { steps: 2 },
});
for await (const event of run) {
  if (event.type !== "checkpoint") continue;
  failWriter(Number(at), { end: "killed process" });
}
