// A training program as one writes it, with Ctrl-C. Arguments: the run's folder, and "hang" to get stuck in step 3.
import { Curriculum, interruptSignal } from "../../lib/train/index.js";
import { tinyModel, tinyStages } from "./tiny.js";

const [out, hang] = process.argv.slice(2);
using interrupt = interruptSignal({ message: "stopping" });
const { signal } = interrupt;
for await (const event of new Curriculum(tinyStages()).run({
  model: tinyModel(),
  outputDir: out,
  seed: 3,
  sinks: [],
  signal,
})) {
  console.log(`${event.type} ${event.globalStep}`); // a number by itself would be coloured where colours are wanted
  if (event.type !== "step") continue;
  await new Promise((done) => setTimeout(done, hang && event.globalStep === 3 ? 60_000 : 40));
}
