import { afterAll, describe, expect, it } from "vitest";
import { StableDiffCoder } from "../../lib/checkpoint/index.js";
import {
  type AttentionPlan,
  causalPlan,
  Decoder,
  documentPositions,
  ModelError,
  presetConfig,
} from "../../lib/model/index.js";
import { AdamW, clipGradNorm, decayGroups, functional } from "../../lib/nn/index.js";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";
import { difference, fixture, golden } from "../nn/golden.js";

const FIXTURES = ["llama", "llama-tied", "llama3-rope", "linear-rope", "qwen2", "qwen3", "mistral", "llama-sharded"];
const small = presetConfig("tiny", { vocabSize: 96, hiddenSize: 32, intermediateSize: 48, numHeads: 4, numLayers: 3 });
const make = (seed = 1) =>
  new Decoder({ ...small, initializerRange: 0.2 }, { generator: new torch.Generator({ seed }) });
const tokens = (b: number, s: number, seed = 2) =>
  torch.randint(0, small.vocabSize, [b, s], { generator: new torch.Generator({ seed }) });

describe("logits against transformers", () => {
  it.each(FIXTURES)("%s agrees to 1e-5 in float32", async (name) => {
    using coder = await StableDiffCoder.fromPretrained(fixture(name));
    const { tensors } = golden(`${name}/golden.safetensors`);
    const worst = torch.scope(() => {
      const plan = causalPlan(tensors.ids.size(1));
      return difference(coder.model.logits(coder.model.forward(tensors.ids, plan)), tensors.logits);
    });
    expect(worst).toBeLessThan(1e-5);
  });
});

describe("Decoder", () => {
  const model = make();
  afterAll(() => model.dispose());

  it("takes its weights from the generator and nowhere else", () => {
    using again = make();
    using other = make(2);
    expect(again.headWeight.toTypedArray()).toEqual(model.headWeight.toTypedArray());
    expect(difference(other.headWeight, model.headWeight)).toBeGreaterThan(0.1);
    const [layer] = model.layers;
    expect(layer.selfAttn.qProj.weight.std().item()).toBeCloseTo(0.2, 1);
    expect(layer.mlp.downProj.weight.std().item()).toBeCloseTo(0.2 / Math.sqrt(6), 2);
    expect(layer.inputLayernorm.weight.tolist()).toEqual(new Array(32).fill(1));
  });

  it("isolated documents give the same hidden states as alone", () => {
    torch.scope(() => {
      const ids = tokens(2, 9);
      const packed = model.forward(ids, causalPlan(9, { documents: [0, 4, 9, 11, 18] }));
      for (const [row, start, end] of [
        [0, 0, 4],
        [0, 4, 9],
        [1, 0, 2],
        [1, 2, 9],
      ]) {
        const part = ids.narrow(0, row, 1).narrow(1, start, end - start);
        const alone = model.forward(part, causalPlan(end - start));
        expect(difference(packed.narrow(0, row, 1).narrow(1, start, end - start), alone)).toBeLessThan(1e-5);
      }
    });
  });

  it("another document leaves a document's hidden states as they are, bit for bit", () => {
    torch.scope(() => {
      const ids = tokens(1, 9);
      const changed = torch.cat([ids.narrow(1, 0, 4).add(1).remainder(small.vocabSize), ids.narrow(1, 4, 5)], 1);
      const documents = [0, 4, 9];
      const [a, b] = [ids, changed].map((input) => model.forward(input, causalPlan(9, { documents })).narrow(1, 4, 5));
      expect(difference(a, b)).toBe(0);
    });
  });

  it("computes only the rows and queries that the plan wants, with the same result and gradients", () => {
    torch.scope(() => {
      const ids = tokens(2, 8);
      const rows = torch.tensor([1, 4, 9, 15], { dtype: "int64" });
      const parameters = model.parameters();
      const full = model.forward(ids, causalPlan(8)).view([16, -1]).indexSelect(0, rows);
      const trimmed = model.forward(ids, causalPlan(8, { rows }));
      expect(trimmed.shape).toEqual([4, 32]);
      expect(difference(full, trimmed)).toBeLessThan(1e-5);
      const ours = torch.grad([trimmed.sin().sum()], parameters, { allowUnused: true });
      const theirs = torch.grad([full.sin().sum()], parameters, { allowUnused: true });
      for (const [i, gradient] of ours.entries()) {
        const expected = theirs[i];
        if (!gradient || !expected) expect(gradient).toBe(expected);
        else expect(difference(gradient, expected)).toBeLessThan(1e-4);
      }
    });
  });

  it("asks the plan for the first `queries` positions in the last layer only", () => {
    torch.scope(() => {
      const ids = tokens(2, 8);
      const asked: number[] = [];
      const mask = torch.ones([8, 8], { dtype: "bool" }).tril();
      const attend: AttentionPlan["attend"] = (_, q, k, v) => {
        asked.push(q.size(1));
        const [qt, kt, vt] = [q, k, v].map((tensor) => tensor.transpose(1, 2));
        const seen = mask.narrow(0, 0, q.size(1));
        return torch.scaledDotProductAttention(qt, kt, vt, seen, 0, false, { enableGqa: true }).transpose(1, 2);
      };
      const positions = torch.arange(8);
      const full = model.forward(ids, { positions, attend });
      asked.length = 0;
      const trimmed = model.forward(ids, { positions, attend, lastLayer: { queries: 3 } });
      expect(asked).toEqual([8, 8, 3]);
      expect(difference(full.narrow(1, 0, 3), trimmed)).toBeLessThan(1e-5);
      const rows = torch.tensor([0, 5], { dtype: "int64" }); // of [2 * 3] positions: (0, 0) and (1, 2)
      const picked = model.forward(ids, { positions, attend, lastLayer: { queries: 3, rows } });
      expect(
        difference(picked, torch.stack([full.select(0, 0).select(0, 0), full.select(0, 1).select(0, 2)])),
      ).toBeLessThan(1e-5);
    });
  });

  it("refuses positions beyond its tables before anything runs", () => {
    using tight = new Decoder({ ...small, maxPositionEmbeddings: 8 });
    const ids = torch.zeros([1, 9], { dtype: "int64" });
    expect(() => tight.forward(ids, causalPlan(9))).toThrow(ModelError);
    expect(() => tight.forward(ids, causalPlan(9))).toThrow(/position 8 is beyond maxPositionEmbeddings \(8\)/);
  });

  it("runs in bfloat16 and under autocast close to float32", () => {
    torch.scope(() => {
      const ids = tokens(2, 12);
      const exact = model.logits(model.forward(ids, causalPlan(12)));
      const scale = exact.abs().amax().item();
      const cast = torch.autocast({ device: "cpu" }, () => model.logits(model.forward(ids, causalPlan(12))));
      expect(difference(cast, exact) / scale).toBeLessThan(0.05);
      using narrow = make();
      narrow.to({ dtype: "bf16" });
      const low = narrow.logits(narrow.forward(ids, causalPlan(12)));
      expect(low.dtype).toBe("bfloat16");
      expect(difference(low, exact) / scale).toBeLessThan(0.05);
    });
  });

  it("trains, with live tensors and memory constant from step to step", () => {
    using learner = make();
    const optimizer = new AdamW(decayGroups(learner, 0.1));
    const ids = tokens(2, 17);
    const alive: number[] = [];
    const losses: number[] = [];
    for (let step = 0; step < 20; step++) {
      losses.push(
        torch.scope(() => {
          const hidden = learner.forward(ids.narrow(1, 0, 16), causalPlan(16)).flatten(0, 1);
          const targets = ids.narrow(1, 1, 16).reshape([32]);
          const { loss } = functional.linearCrossEntropy(hidden, learner.headWeight, targets);
          loss.div(32).backward();
          clipGradNorm(learner.parameters(), 1);
          optimizer.step(1e-2);
          optimizer.zeroGrad();
          return loss.item() / 32;
        }),
      );
      const { tensors, host } = torch.memory();
      alive.push(tensors, host);
    }
    expect(losses[19]).toBeLessThan(losses[0] / 4);
    expect(alive.slice(-38)).toEqual(Array.from({ length: 19 }, () => alive.slice(-2)).flat());
  });
});

describe("documentPositions", () => {
  it("counts from each document's start", () => {
    expect(documentPositions([0, 2, 5, 6, 10], 5).tolist()).toEqual([
      [0, 1, 0, 1, 2],
      [0, 0, 1, 2, 3],
    ]);
  });

  it.each([[[1, 5]], [[0, 4]], [[0, 6, 10]], [[0, 3, 3, 5]], [[]]])("refuses %j", (documents) => {
    expect(() => documentPositions(documents, 5)).toThrow(ModelError);
  });
});

describe("tied head", () => {
  it("shares the embedding's weight: one parameter, gradients of both uses", () => {
    using tied = new Decoder({ ...small, tieWordEmbeddings: true }, { generator: new torch.Generator({ seed: 3 }) });
    expect(tied.headWeight).toBe(tied.embedTokens.weight);
    expect([...tied.namedParameters()].filter(([name]) => name.startsWith("lmHead"))).toEqual([]);
    torch.scope(() => {
      const ids = torch.tensor([[1, 2]], { dtype: "int64" });
      tied
        .logits(tied.forward(ids, causalPlan(2)))
        .sum()
        .backward();
      const gradient = tied.embedTokens.weight.grad as Tensor;
      expect(gradient.index(50).abs().sum().item()).toBeGreaterThan(0); // by the head only
    });
  });
});
