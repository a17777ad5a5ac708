// Supervised fine-tuning on conversations: only answers are masked and learnt, and one to four end tokens follow each
// sample, so that an answer may end anywhere in a block (section 2). Run it with
//   MODEL=runs/quickstart/checkpoints/final npx diffcoder train examples/fine-tune.ts
import { Curriculum, prepareSftData, StableDiffCoder, supervised } from "stable-diffcoder";

const { MODEL = "runs/quickstart/checkpoints/final", CHATS = "examples/chats.jsonl", EPOCHS = "3" } = process.env;

export const model = await StableDiffCoder.fromPretrained(MODEL, { dtype: "float32" });
const chats = prepareSftData({ paths: [CHATS], length: 256 }, model.tokenizer);

export const curriculum = new Curriculum([
  supervised({ name: "sft", data: chats, epochs: Number(EPOCHS), batchSize: 2, blockSize: 4, checkpoint: "instruct" }),
]);
