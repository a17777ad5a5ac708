// Generates from code, and shows what the sampler tells as it denoises.
//
//   npx tsx examples/generate.ts [MODEL] [PROMPT]
import { confidenceThreshold, generateAutoregressive, generateBlocks, StableDiffCoder } from "stable-diffcoder";

const [path = "runs/quickstart/checkpoints/final", text = "def main("] = process.argv.slice(2);
using coder = await StableDiffCoder.fromPretrained(path);
const { model, tokenizer } = coder;
const prompt = tokenizer.encode(text);
const maskId = model.config.maskTokenId;

// Block after block of four tokens, each begun fully masked. A pass commits every token that the model is 80 % sure of,
// and the surest one at least; committed tokens stay.
const options = { maxTokens: 48, blockSize: 4, commit: confidenceThreshold(0.8) };
for await (const event of generateBlocks(model, prompt, options)) {
  if (event.type === "denoise") {
    const tokens = event.canvas.subarray(Math.max(0, event.start - prompt.length));
    const block = Array.from(tokens, (id) => (id === maskId ? "▒" : tokenizer.decode([id])));
    const sure = Math.max(...event.committed.map((position) => event.confidence[position - event.start]));
    console.log(
      `block ${event.block} pass ${event.step}: ${JSON.stringify(block.join(""))} (surest ${sure.toFixed(2)})`,
    );
  } else if (event.type === "done") {
    console.log(`\n${text}${tokenizer.decode(event.ids)}`);
    console.log(`\nblock diffusion: ${event.ids.length} tokens in ${event.forwards} forward passes`);
  }
}

// The same weights, left to right: one forward pass for each token. A character may take several tokens: `stream` holds
// back what is not whole yet. To stop early, leave the loop, or abort a signal given as an option.
const stream = tokenizer.stream();
for await (const event of generateAutoregressive(model, prompt, { maxTokens: 48, temperature: 0.8, seed: 1 })) {
  if (event.type === "token") process.stdout.write(stream.push(event.id));
  else console.log(`\n\nleft to right: ${event.ids.length} tokens in ${event.forwards} forward passes`);
}
