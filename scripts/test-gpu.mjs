// npm run test:gpu: the suite for a machine with a CUDA device. Without one it fails: a suite that did not run has not passed.
import { addonFacts } from "./lib/probe.mjs";
import { printProblem, setup } from "./lib/setup.mjs";
import { emptyTally, exitCodeOf, finalLine } from "./lib/tally.mjs";
import { runVitest } from "./lib/vitest.mjs";

let total = emptyTally();
try {
  await setup();
  const facts = addonFacts();
  if (!facts.loads) {
    console.error(`The addon does not load: ${facts.error}`);
  } else if (facts.cudaDevices === 0) {
    const why = facts.cudaBuild
      ? "libtorch is a CUDA build, but sees no device: check nvidia-smi and the driver"
      : "libtorch is a CPU build: set LIBTORCH to a CUDA build, or activate a Python that has one";
    console.error(`no CUDA device: nothing run (${why})`);
  } else {
    total = await runVitest(["--config", "vitest.gpu.config.ts", ...process.argv.slice(2)]);
  }
} catch (error) {
  printProblem(error);
}
console.log(`\n${finalLine(total)}`);
process.exitCode = exitCodeOf(total);
