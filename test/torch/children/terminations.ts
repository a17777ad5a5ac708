// Ends workers while they load the addon, each at another moment. Prints how many ended so and how many came to run.
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";

const [addon, rounds] = process.argv.slice(2);
createRequire(import.meta.url)(addon); // libtorch itself is loaded once: what a worker does alone is its registration
const source = `
  const { parentPort } = require("node:worker_threads");
  parentPort.postMessage("starts");
  const native = require(${JSON.stringify(addon)});
  native.overloads("aten::add");
  parentPort.postMessage("loaded");
`;
let ended = 0;
let loaded = 0;
for (let i = 0; i < Number(rounds); i++) {
  const worker = new Worker(source, { eval: true });
  worker.on("message", (message) => {
    if (message === "loaded") loaded++;
  });
  worker.on("error", () => {});
  if (i % 2 === 0) await new Promise((resolve) => worker.once("message", resolve));
  // From at once to after it has loaded.
  const moment = (i % 40) / 10;
  if (moment >= 1) await sleep(moment);
  else for (const end = performance.now() + moment; performance.now() < end; );
  await worker.terminate();
  ended++;
}
console.log(JSON.stringify({ ended, loaded }));
