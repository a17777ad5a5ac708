import { performance } from "node:perf_hooks";
import type { FastifyInstance } from "fastify";
import type { ScoreRequestOptions } from "../../engine/index.js";
import type { ServerContext, TextEngine } from "../context.js";
import { ApiError } from "../errors.js";
import { answer } from "../generate.js";
import { documented } from "../openapi.js";
import {
  checkChoices,
  checkIds,
  clientSignal,
  contextLengthExceeded,
  encodeText,
  type Job,
  samplingOptions,
  tokensToGenerate,
} from "../prepare.js";
import { CompletionFormat, type Echo } from "../protocol/completion-format.js";
import {
  type CompletionRequest,
  checkStreamOptions,
  completionRequestSchema,
  promptsOf,
  unsupportedFields,
} from "../protocol/requests.js";
import { completionResponseSchema } from "../protocol/responses.js";
import { headOf, openRequest } from "./open-request.js";

/** OpenAI's, where a request does not say. */
const DEFAULT_MAX_TOKENS = 16;

/** POST /v1/completions */
export function completionRoute(app: FastifyInstance, context: ServerContext): void {
  const schema = documented("Continue or infill text", "createCompletion", {
    ...{ body: completionRequestSchema, answer: completionResponseSchema, streams: true },
  });
  app.post("/v1/completions", { schema }, async (http, reply) => {
    const arrived = performance.now();
    const { engine, request, ignored, model } = openRequest(context, http, completionRequestSchema, unsupportedFields);
    const streaming = checkStreamOptions(request);
    const n = request.n ?? 1;
    const prompts = promptsOf(request.prompt);
    checkChoices(context, prompts.length, n, request.best_of);
    const client = clientSignal(reply);
    const jobs = await Promise.all(prompts.map((prompt) => jobOf(context, engine, request, prompt, n, client)));
    const echo: Echo[] = [];
    const prepare = async (run: ScoreRequestOptions) => {
      if (request.echo) echo.push(...(await echoes(context, engine, request, jobs, run)));
    };
    const format = new CompletionFormat(headOf(context, "cmpl", model), {
      logprobs: request.logprobs ?? undefined,
      echo,
      n,
      tokenIds: request.return_token_ids ?? false,
      tokenizer: engine.tokenizer,
    });
    return answer(context, http, reply, { jobs, format, arrived, ignored, prepare, ...streaming });
  });
}

async function jobOf(
  context: ServerContext,
  engine: TextEngine,
  request: CompletionRequest,
  prompt: string | number[],
  n: number,
  signal: AbortSignal,
): Promise<Job> {
  const { suffix } = request;
  const infilling = suffix !== null && suffix !== undefined;
  if (infilling && !engine.model.hasFim) {
    const message = "suffix: this model's tokenizer has no fill-in-the-middle tokens, so it cannot infill";
    throw new ApiError("infilling_unsupported", message, { param: "suffix" });
  }
  // Infilling puts its own tokens around the prompt, which is then no beginning of a text.
  const completion = { param: "max_tokens", tokens: request.max_tokens ?? DEFAULT_MAX_TOKENS };
  const addSpecialTokens = request.add_special_tokens ?? !infilling;
  const encode = (text: string, param: string, addSpecial: boolean) =>
    encodeText(context, engine, text, { param, addSpecialTokens: addSpecial, completion, signal });
  let ids = typeof prompt === "string" ? await encode(prompt, "prompt", addSpecialTokens) : prompt;
  const { bosId } = engine.tokenizer;
  if (ids.length === 0 && !infilling && bosId !== undefined) ids = [bosId]; // the empty text: begin one
  if (!infilling || ids.length > 0) checkIds(engine, ids, "prompt");
  const suffixIds = infilling ? await encode(suffix, "suffix", false) : undefined;
  const promptTokens = ids.length + (suffixIds ? suffixIds.length + 3 : 0);
  const edit = request.dllm?.edit;
  const { maxLength } = engine.model;
  if (edit && promptTokens > maxLength) {
    const counted = { maxLength, promptTokens, completionTokens: 0 };
    throw contextLengthExceeded({ ...counted, prompt: "prompt", completion: "dllm.edit" });
  }
  const sampling = samplingOptions(context, engine, request);
  const maxTokens = edit
    ? edit.end - edit.start
    : tokensToGenerate(context, engine, promptTokens, request.max_tokens, {
        param: "max_tokens",
        prompt: "prompt",
        fallback: DEFAULT_MAX_TOKENS,
      });
  if (maxTokens === 0 && !request.echo) {
    throw new ApiError("invalid_value", "max_tokens: 0 makes sense with echo only", { param: "max_tokens" });
  }
  const options = {
    ...sampling,
    ...(suffixIds && { suffix: suffixIds }),
    ...(request.logprobs != null && { logprobs: request.logprobs }),
    maxTokens,
    n,
  };
  return { prompt: ids, promptTokens, options };
}

/** The prompts as they are sent back; scored where logprobs are asked for. */
async function echoes(
  context: ServerContext,
  engine: TextEngine,
  request: CompletionRequest,
  jobs: readonly Job[],
  run: ScoreRequestOptions,
): Promise<Echo[]> {
  const { tokenizer } = engine;
  const prompts = promptsOf(request.prompt);
  const echo: Echo[] = [];
  for (const [i, job] of jobs.entries()) {
    const ids = job.prompt as number[];
    const given = prompts[i];
    const text = typeof given === "string" ? given : tokenizer.decode(ids);
    const isEmpty = ids.length === 0; // infilling before a suffix: nothing to score
    if (request.logprobs == null || isEmpty) {
      echo.push({ text, ids });
      continue;
    }
    const { dllm, seed, logprobs } = request;
    const options = {
      mode: dllm?.mode ?? "diffusion",
      ...(dllm?.block_size != null && { blockSize: dllm.block_size }),
      ...(seed != null && { seed }),
      logprobs,
    };
    const score = await engine.score(ids, options, run);
    const plain = { param: "prompt", addSpecialTokens: false, signal: run.signal };
    const inner = typeof given === "string" ? await encodeText(context, engine, given, plain) : ids;
    const texts = ids.map((id) => tokenizer.decode([id]));
    echo.push({ text, ids, scored: { texts, shown: isIn(inner, ids), score } });
  }
  return echo;
}

/** Which ids are of the text itself; what the tokenizer puts around it is not part of it. */
function isIn(inner: readonly number[], ids: readonly number[]): boolean[] {
  const before = Math.max(0, startOf(inner, ids));
  return ids.map((_, i) => i >= before && i < before + inner.length);
}

/** Where a sequence begins in a longer one; -1 if it is not part of it. */
function startOf(inner: readonly number[], outer: readonly number[]): number {
  for (let from = 0; from + inner.length <= outer.length; from++) {
    if (inner.every((id, i) => outer[from + i] === id)) return from;
  }
  return -1;
}
