import { describe, expect, it } from "vitest";
import { type RopeConfig, RotaryTables } from "../../lib/model/index.js";
import * as torch from "../../lib/torch/index.js";
import { difference, golden } from "../nn/golden.js";

const types: RopeConfig[] = [
  { type: "default", theta: 500_000 },
  { type: "linear", theta: 10_000, factor: 4 },
  {
    type: "llama3",
    theta: 500_000,
    factor: 8,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPositionEmbeddings: 8192,
  },
];

describe("rotary tables", () => {
  it.each(types)("$type: transformers' angles up to position 131071", (rope) => {
    torch.scope(() => {
      const { tensors } = golden("rotary/golden.safetensors");
      const tables = new RotaryTables({ rope, headDim: 64, maxPositionEmbeddings: 131_072 }, "cpu");
      const { cos, sin } = tables.at(tensors.positions, 131_072);
      // A last-bit difference of a frequency, times the position, is what is left between the two float32 computations.
      expect(difference(cos.narrow(0, 0, 5), tensors[`${rope.type}.cos`].narrow(0, 0, 5))).toBeLessThan(2e-3);
      expect(difference(sin.narrow(0, 0, 5), tensors[`${rope.type}.sin`].narrow(0, 0, 5))).toBeLessThan(2e-3);
      tables.dispose();
    });
  });

  it("takes positions of every row", () => {
    torch.scope(() => {
      const tables = new RotaryTables({ rope: types[0], headDim: 8, maxPositionEmbeddings: 16 }, "cpu");
      const { cos } = tables.at(
        torch.tensor(
          [
            [0, 1],
            [5, 2],
          ],
          { dtype: "int64" },
        ),
      );
      expect(cos.shape).toEqual([2, 2, 4]);
      expect(cos.select(0, 0).select(0, 0).tolist()).toEqual([1, 1, 1, 1]);
      tables.dispose();
    });
  });
});
