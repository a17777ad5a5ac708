// Supervised fine-tuning (SFT) of a checkpoint on conversations: only the assistant's messages are masked and trained on.
//
//   npx diffcoder train examples/fine-tune.ts
//   npx diffcoder generate runs/fine-tune/checkpoints/final --chat "Write a Python function that adds two numbers."
//
// A line of the data is { "messages": [{ "role": "user", "content": ... }, { "role": "assistant", "content": ... }] },
// written with the checkpoint's chat template; or { "prompt": ..., "answer": ... } without any template.
import {
  Curriculum,
  type CurriculumFileContext,
  prepareSftData,
  StableDiffCoder,
  supervised,
  Tokenizer,
  warmupStableDecay,
} from "stable-diffcoder";

const path = process.env.MODEL ?? "runs/quickstart/checkpoints/final";
const epochs = Number(process.env.EPOCHS ?? 40); // many, because the example's data is tiny; two or three are usual
const tokenizer = Tokenizer.fromPretrained(path);

// Whole conversations are packed into rows, and do not attend to each other. One to four end tokens follow each, so that the
// model learns to end anywhere in a block (section 2 of the paper).
const chats = await prepareSftData({ paths: [process.env.CHATS ?? "examples/chats.jsonl"], seqLen: 256 }, tokenizer);

export const curriculum = new Curriculum([
  supervised({
    name: "sft",
    data: chats,
    epochs,
    globalBatchSize: 4,
    blockSize: 4,
    maskId: tokenizer.require("mask"),
    // For a model of 5 million parameters; 1e-5 to 5e-5 for large ones.
    lr: warmupStableDecay(1e-3, { warmup: 0.05 }),
  }),
]);
export const model = ({ device }: CurriculumFileContext) =>
  StableDiffCoder.fromPretrained(path, { dtype: "float32", device });
