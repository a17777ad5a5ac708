import { describe, expect, it } from "vitest";
import * as z from "zod";
import { CodedError } from "../../lib/base/coded-error.js";
import { optionsParser } from "../../lib/base/options.js";
import {
  confidenceFactor,
  confidenceThreshold,
  entropyBound,
  hybridRule,
  staticSchedule,
} from "../../lib/diffusion/index.js";
import { EngineError, parseOptions } from "../../lib/engine/errors.js";
import { engineOptionsSchema, generateOptionsSchema, scoreOptionsSchema } from "../../lib/engine/options.js";

class LayerError extends CodedError<"LAYER_OPTIONS" | "LAYER_FILE"> {}
const parse = optionsParser(LayerError, "LAYER_OPTIONS");
const schema = z.strictObject({
  steps: z.number().int().min(1),
  mode: z.enum(["fast", "slow"]).default("fast"),
  parts: z.array(z.strictObject({ name: z.string() })).default([]),
});

function messageOf(value: unknown): string {
  try {
    parse("job", schema, value);
  } catch (error) {
    expect(error).toBeInstanceOf(LayerError);
    expect(error).toMatchObject({ code: "LAYER_OPTIONS", name: "LayerError", cause: expect.any(z.ZodError) });
    return (error as Error).message;
  }
  return "nothing";
}

describe("options of every layer", () => {
  it("are parsed, with defaults", () => {
    expect(parse("job", schema, { steps: 2 })).toEqual({ steps: 2, mode: "fast", parts: [] });
  });

  it("are told by path, by what is allowed, and by the nearest name", () => {
    expect(messageOf({ step: 2, mode: "quick", parts: [{ name: "a" }, { nmae: "b" }] })).toBe(
      [
        "job:",
        "  steps: missing (number)",
        '  mode: expected one of "fast", "slow", got "quick"',
        "  parts[1].name: missing (string)",
        "  parts[1].nmae: unknown key (did you mean name?); allowed: name",
        "  step: unknown key (did you mean steps?); allowed: steps, mode, parts",
      ].join("\n"),
    );
    expect(messageOf(null)).toBe("job:\n  expected object, got null");
    expect(() => parse("file.yaml", schema, {}, "LAYER_FILE")).toThrow(
      expect.objectContaining({ code: "LAYER_FILE", message: "file.yaml:\n  steps: missing (number)" }),
    );
  });

  it.each([
    [engineOptionsSchema, "maxRunning", "maxNumSeqs"],
    [engineOptionsSchema, "maxBatchTokens", "maxNumBatchedTokens"],
    [engineOptionsSchema, "maxLength", "maxModelLen"],
    [engineOptionsSchema, "thread", "worker"],
    [engineOptionsSchema, "weights", "quantization"],
    [generateOptionsSchema, "stopIds", "stopTokenIds"],
    [scoreOptionsSchema, "passes", "mcSamples"],
  ])("had other names in 0.1.0, which are refused with those of today: %#", (options, before, today) => {
    expect(() => parseOptions("engine", options, { [before]: 1 })).toThrow(
      new EngineError("ENGINE_OPTIONS", `engine:\n  ${before}: it is called ${today} now`),
    );
  });

  it.each([
    [staticSchedule(), { rule: "static" }],
    [staticSchedule({ steps: 3 }), { rule: "static", steps: 3 }],
    [confidenceThreshold(0.9), { rule: "threshold", value: 0.9 }],
    [hybridRule({ value: 0.8, steps: 2 }), { rule: "hybrid", value: 0.8, steps: 2 }],
    [confidenceFactor(1.5), { rule: "factor", factor: 1.5 }],
    [entropyBound(0.4), { rule: "entropy", bound: 0.4 }],
  ])("take a commit rule as an object and as data: %#", (commit, data) => {
    expect(parseOptions("generate", generateOptionsSchema, { commit }).commit).toEqual(data);
    expect(parseOptions("generate", generateOptionsSchema, { commit: data }).commit).toEqual(data);
    const custom = { ...commit, config: undefined };
    expect(parseOptions("generate", generateOptionsSchema, { commit: custom }).commit).toBe(custom);
  });

  it("say what is wrong with a commit rule", () => {
    const told = (commit: object) => () => parseOptions("generate", generateOptionsSchema, { commit });
    expect(told({ rule: "threshold", value: 2 })).toThrow(/commit\.value/);
    expect(told({ rule: "treshold", value: 0.5 })).toThrow(/commit/);
  });
});
