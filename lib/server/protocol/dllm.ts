import * as z from "zod";
import { commitSchema, type GenerateOptions, remaskSchema } from "../../engine/index.js";
import { ApiError } from "../api-error.js";

/** The request's `dllm` object: how a text is denoised. */
export const dllmRequestSchema = z
  .strictObject({
    mode: z.enum(["diffusion", "autoregressive"]).nullish().describe("default diffusion"),
    block_size: z.number().int().min(1).max(1024).nullish().describe("tokens denoised together; as trained"),
    steps: z.number().int().min(1).max(1024).nullish().describe("passes per block; default: one token a pass"),
    threshold: z.number().min(0).max(1).nullish().describe("commit every token surer than this, at least one a pass"),
    commit: commitSchema.nullish().describe("which tokens a pass commits, in place of steps or threshold"),
    remask: remaskSchema.nullish().describe("mask tokens again that the model comes to doubt"),
    canvas: z.enum(["growing", "fixed"]).nullish().describe("fixed: exactly max_tokens, no end token is chosen"),
    edit: z
      .strictObject({ start: z.number().int().min(0), end: z.number().int().min(1) })
      .nullish()
      .describe("generate these of the prompt's tokens anew, in place"),
    stream_steps: z.boolean().nullish().describe("report every denoising pass"),
  })
  .describe("how the text is denoised; an extension of OpenAI's API");
export type DllmRequest = z.output<typeof dllmRequestSchema>;

/** @throws ApiError invalid_value for options that exclude each other */
export function dllmOptions(dllm: DllmRequest | null | undefined): Partial<GenerateOptions> {
  if (!dllm) return {};
  const rules = (["steps", "threshold", "commit"] as const).filter((name) => dllm[name] != null);
  if (rules.length > 1) {
    const message = `dllm.${rules.join(" and dllm.")} exclude each other: commit can hold both ("hybrid")`;
    throw new ApiError("invalid_value", message, { param: `dllm.${rules[1]}` });
  }
  if (dllm.mode === "autoregressive") {
    const odd = (["block_size", "steps", "threshold", "commit", "remask", "canvas", "edit"] as const).find(
      (name) => dllm[name] != null,
    );
    if (odd) {
      throw new ApiError("invalid_value", `dllm.${odd} means nothing in mode "autoregressive"`, {
        param: `dllm.${odd}`,
      });
    }
  }
  if (dllm.edit && dllm.edit.end <= dllm.edit.start) {
    throw new ApiError("invalid_value", "dllm.edit.end must be greater than dllm.edit.start", {
      param: "dllm.edit.end",
    });
  }
  const { threshold, commit, steps } = dllm;
  return {
    ...(dllm.mode != null && { mode: dllm.mode }),
    ...(dllm.block_size != null && { blockSize: dllm.block_size }),
    ...(steps != null && { commit: { rule: "static", steps } }),
    ...(threshold != null && { commit: { rule: "threshold", value: threshold } }),
    ...(commit != null && { commit }),
    ...(dllm.remask != null && { remask: dllm.remask }),
    ...(dllm.canvas != null && { canvas: dllm.canvas }),
    ...(dllm.edit != null && { edit: dllm.edit }),
  };
}
