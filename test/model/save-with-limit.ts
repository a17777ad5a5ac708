// Saves other weights over a checkpoint and prints the error: run under a limit on file sizes by checkpoint.test.ts.
import { CheckpointError, StableDiffCoder } from "../../lib/checkpoint/index.js";
import { presetConfig } from "../../lib/model/index.js";

const shape = { vocabSize: 64, hiddenSize: 32, intermediateSize: 48, numHeads: 4, numLayers: 2 };
try {
  const coder = StableDiffCoder.fromConfig({ ...presetConfig("tiny", shape) }, { seed: 99 });
  await coder.savePretrained(process.argv[2]);
  console.log("saved");
} catch (error) {
  console.log(error instanceof CheckpointError ? `${error.code} ${error.message}` : error);
}
