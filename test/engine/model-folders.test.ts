import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { StableDiffCoder } from "../../lib/checkpoint/index.js";
import { Engine } from "../../lib/engine/index.js";
import { causalPlan } from "../../lib/model/index.js";
import { Tokenizer } from "../../lib/tokenizer/tokenizer.js";
import * as torch from "../../lib/torch/index.js";

const cases = fileURLToPath(new URL("../../../shared/cases/interop/models", import.meta.url));

// Models whose next token is given by the last one: ":" A B C <|eot|> D E D E ... Values of transformers' generate.
describe.skipIf(!existsSync(cases))("folders that people bring (../shared/cases)", () => {
  const complete = async (name: string, stop: string[] = []) => {
    await using engine = await Engine.create({ model: join(cases, name), worker: "none" });
    const choice = await engine.complete(":", { mode: "autoregressive", maxTokens: 10, stop });
    return choice;
  };

  it("end at every end token of generation_config.json", async () => {
    expect(await complete("eoslist")).toMatchObject({ text: "ABC", finishReason: "stop", stopReason: 258 });
  });

  it("end at a stop string that is a special token, which is not shown", async () => {
    expect(await complete("plain", ["<|eot|>"])).toMatchObject({
      text: "ABC",
      finishReason: "stop",
      stopReason: "<|eot|>",
    });
    expect(await complete("plain")).toMatchObject({ text: "ABCDEDEDE", finishReason: "length" });
  });

  it("take eos from tokenizer_config.json, where it has added_tokens_decoder", () => {
    const tokenizer = Tokenizer.fromPretrained(join(cases, "stalemap"));
    expect(tokenizer.eosId).toBe(258);
    expect(tokenizer.encodeChat([{ role: "user", content: "q" }])).toEqual([113, 258]);
  });

  it("have a head of their own, where it differs from an embedding that config.json ties", async () => {
    using coder = await StableDiffCoder.fromPretrained(join(cases, "w_tied_both_diff"));
    expect(coder.config.tieWordEmbeddings).toBe(false);
    const ids = [3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 9, 3, 23, 8, 46];
    const first = torch.scope(() =>
      torch.noGrad(() => {
        const { model } = coder;
        const hidden = model.forward(torch.tensor([ids], { dtype: "int64" }), causalPlan(ids.length));
        const all = Array.from(model.logits(hidden).view([-1]).toTypedArray() as Float32Array);
        return all.slice(-model.config.vocabSize).slice(0, 4);
      }),
    );
    for (const [i, value] of [10.8423, 3.2444, 3.7368, 3.8046].entries()) expect(first[i]).toBeCloseTo(value, 3);
  });

  it("may say -1 for a token that there is none of", async () => {
    using coder = await StableDiffCoder.fromPretrained(join(cases, "w_pad-1"));
    expect(coder.config.padTokenId).toBeNull();
  });
});
