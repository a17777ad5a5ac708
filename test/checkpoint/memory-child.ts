// Saves a model of some megabytes again and again, and prints the resident memory after each save, in bytes.

import { CheckpointStore } from "../../lib/checkpoint/index.js";
import { Decoder, presetConfig } from "../../lib/model/index.js";
import { AdamW } from "../../lib/nn/index.js";
import { contentOf } from "./ranks.js";

const [run, saves] = process.argv.slice(2);
const model = new Decoder(presetConfig("tiny", { numLayers: 2 }));
const optimizer = new AdamW(model.namedParameters());
const store = new CheckpointStore(run, 1);
for (let save = 1; save <= Number(saves); save++) {
  await store.save(`step-${String(save).padStart(6, "0")}`, contentOf({ model, optimizer }, save));
  console.log(String(process.memoryUsage().rss)); // a number by itself would be coloured where colours are wanted
}
