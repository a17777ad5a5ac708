// Text from code: the sampler is a stream of events, one for each denoising pass. Run it with
//   npx tsx examples/generate.ts runs/quickstart/checkpoints/final "def main("
import { confidenceThreshold, generateBlocks, StableDiffCoder } from "stable-diffcoder";

const [path = "runs/quickstart/checkpoints/final", prompt = "def main("] = process.argv.slice(2);
using coder = await StableDiffCoder.fromPretrained(path);
const { tokenizer, model } = coder;

const options = { maxTokens: 32, blockSize: 4, commit: confidenceThreshold(0.7) };
for await (const event of generateBlocks(model, tokenizer.encode(prompt), options)) {
  if (event.type === "denoise") {
    const canvas = Array.from(event.canvas, (id) => (id === tokenizer.maskId ? "▒" : tokenizer.decode([id])));
    console.log(`block ${event.block} pass ${event.step}: ${JSON.stringify(canvas.join(""))}`);
  } else if (event.type === "done") {
    console.log(`${event.ids.length} tokens in ${event.forwards} forwards, ended by ${event.finishReason}`);
  }
}
