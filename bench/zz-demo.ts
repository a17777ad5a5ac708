import { StableDiffCoder, prepareData, Curriculum, autoregressive, blockDiffusion, warmupStable, decayTo, clippedLinear, maskRatioWarmup, defaultSinks, terminal, generateBlocks, generateAutoregressive, diffusionBound, arBitsPerByte, torch, interruptSignal, Tokenizer } from "stable-diffcoder";
const tokenizer = Tokenizer.fromPretrained("/work/main/assets/tokenizer");
const corpus = await prepareData({ length: 64, maxBytes: 1_000_000, heldOut: 0.02, cache: "/tmp/train/cache" }, tokenizer);
const model = StableDiffCoder.fromConfig({ vocabSize: 4096, hiddenSize: 96, intermediateSize: 256, numLayers: 2, numHeads: 4, numKeyValueHeads: 2, maxPositionEmbeddings: 256, bosTokenId: 0, padTokenId: 1, eosTokenId: 2, maskTokenId: 5 }, { tokenizer, seed: 1 });
const prompts = ["def add(a, b):\n    return", "import os\n\ndef main("];
const sample = (ar: boolean) => ({ every: 100, run: async () => {
  const out = [];
  for (const prompt of prompts) {
    const ids = tokenizer.encode(prompt, { addSpecialTokens: false });
    let last: any;
    for await (const e of ar ? generateAutoregressive(model.model, ids, { maxTokens: 32 }) : generateBlocks(model.model, ids, { maxTokens: 32, temperature: 0.5, seed: 3 })) last = e;
    out.push({ prompt, text: tokenizer.decode(last.ids), note: `${last.forwards} forwards for ${last.ids.length} tokens, ${ar ? "autoregressive" : "block diffusion"}` });
  }
  return out;
}});
const K = Number(process.env.K ?? 1);
const evaluate = { every: 50, run: async () => {
  const { Loader } = await import("stable-diffcoder");
  const batches = [...new Loader(corpus.heldOut!).once(8)].slice(0, 3);
  const r = await arBitsPerByte(model.model, batches, { byteLength: (id: number) => tokenizer.decode([id]).length });
  return { held_out_bits_per_byte: r.bitsPerByte };
}};
const c = new Curriculum([
  autoregressive({ name: "compress", data: corpus, steps: 200*K, batchSize: 8, lr: warmupStable(3e-3, { warmup: 20 }), checkpoint: "pre-anneal", sample: sample(true), evaluate }),
  blockDiffusion({ name: "cpt", data: corpus, steps: 300*K, batchSize: 8, blockSize: 4, noise: clippedLinear(), warmup: maskRatioWarmup({ steps: 100*K }), sample: sample(false) }),
  blockDiffusion({ name: "anneal", data: corpus, steps: 100*K, batchSize: 8, blockSize: 4, lr: decayTo(0), sample: sample(false) }),
]);
const out = process.env.OUT ?? "/tmp/train/runs/demo";
using interrupt = interruptSignal();
for await (const event of c.run({ model, out, overwrite: true, resume: process.env.RESUME === "1", sinks: [...defaultSinks(out), terminal()], signal: interrupt.signal, device: "cpu" })) { if (process.env.DIE && event.globalStep >= Number(process.env.DIE)) break; }
console.log(torch.memory());
