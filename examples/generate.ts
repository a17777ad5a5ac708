// Generates from code, and shows the events of denoising.
//
//   npx tsx examples/generate.ts [MODEL] [PROMPT]
import { confidenceThreshold, generateAutoregressive, generateBlocks, StableDiffCoder } from "stable-diffcoder";

const [path = "runs/quickstart/checkpoints/final", text = "def main("] = process.argv.slice(2);
using coder = await StableDiffCoder.fromPretrained(path);
const prompt = coder.tokenizer.encode(text);

// Decodes block after block of four tokens, each fully masked at first. A pass commits every token with a probability above
// 80 %, and at least the most confident one; committed tokens stay.
const options = { maxTokens: 48, blockSize: 4, commit: confidenceThreshold(0.8) };
const canvas = new Map<number, string>();
let completion = "";
for await (const event of generateBlocks(coder, prompt, options)) {
  if (event.type === "denoise") {
    for (const { position, text } of event.committed) canvas.set(position, text);
    const first = Math.max(event.start, prompt.length);
    const block = Array.from({ length: event.end - first }, (_, i) => canvas.get(first + i) ?? "▒").join("");
    const confidence = Math.exp(Math.max(...event.committed.map(({ logprob }) => logprob)));
    console.log(
      `block ${event.block} pass ${event.step}: ${JSON.stringify(block)} (confidence ${confidence.toFixed(2)})`,
    );
  } else if (event.type === "text") {
    completion += event.text;
  } else if (event.type === "done") {
    const { completionTokens, forwards } = event.usage;
    console.log(`\n${text}${completion}\n\nblock diffusion: ${completionTokens} tokens in ${forwards} forward passes`);
  }
}

// The same weights, left to right: one forward pass for each token. A character is reported when all of its tokens are
// known. To stop early, leave the loop, or abort a signal that is passed as an option.
for await (const event of generateAutoregressive(coder, prompt, { maxTokens: 48, temperature: 0.8, seed: 1 })) {
  if (event.type === "text") process.stdout.write(event.text);
  if (event.type === "done") {
    const { completionTokens, forwards } = event.usage;
    console.log(`\n\nleft to right: ${completionTokens} tokens in ${forwards} forward passes`);
  }
}
