import { performance } from "node:perf_hooks";
import type { FastifyInstance } from "fastify";
import { ApiError } from "../api-error.js";
import type { ServerContext } from "../context.js";
import { answer } from "../generate.js";
import { checkChoices, checkIds, encodeText, type Job, samplingOptions, tokensToGenerate } from "../prepare.js";
import { CompletionDialect, type Echo } from "../protocol/completion-dialect.js";
import { unsupportedFields } from "../protocol/fields.js";
import { promptsOf } from "../protocol/prompt.js";
import { type CompletionRequest, completionRequestSchema } from "../protocol/requests.js";
import { checkStreamOptions } from "../protocol/stream-options.js";
import type { TextEngine } from "../served-engine.js";
import { headOf } from "./head.js";
import { openRequest } from "./open-request.js";

/** OpenAI's, where a request does not say. */
const DEFAULT_MAX_TOKENS = 16;

/** POST /v1/completions */
export function completionRoute(app: FastifyInstance, context: ServerContext): void {
  app.post("/v1/completions", async (http, reply) => {
    const arrived = performance.now();
    const { engine, request, ignored, model } = openRequest(context, http, completionRequestSchema, unsupportedFields);
    const streaming = checkStreamOptions(request);
    const n = request.n ?? 1;
    const prompts = promptsOf(request.prompt);
    checkChoices(context, prompts.length, n);
    const jobs = prompts.map((prompt) => jobOf(context, engine, request, prompt, n));
    const echo: Echo[] = [];
    const prepare = async (signal: AbortSignal) => {
      if (request.echo) echo.push(...(await echoes(engine, request, jobs, signal)));
    };
    const dialect = new CompletionDialect(headOf(context, "cmpl", model), {
      logprobs: request.logprobs ?? undefined,
      echo,
      n,
      tokenIds: request.return_token_ids ?? false,
    });
    return answer(context, http, reply, { jobs, dialect, arrived, ignored, prepare, ...streaming });
  });
}

function jobOf(
  context: ServerContext,
  engine: TextEngine,
  request: CompletionRequest,
  prompt: string | number[],
  n: number,
): Job {
  const { suffix } = request;
  const infilling = suffix !== null && suffix !== undefined;
  if (infilling && !engine.model.hasFim) {
    const message = "suffix: this model's tokenizer has no fill-in-the-middle tokens, so it cannot infill";
    throw new ApiError("infilling_unsupported", message, { param: "suffix" });
  }
  // Infilling puts its own tokens around the prompt, which is then no beginning of a text.
  const addSpecialTokens = request.add_special_tokens ?? !infilling;
  let ids = typeof prompt === "string" ? encodeText(engine, prompt, "prompt", addSpecialTokens) : prompt;
  const { bosId } = engine.tokenizer;
  if (ids.length === 0 && !infilling && bosId !== undefined) ids = [bosId]; // the empty text: begin one
  if (!infilling || ids.length > 0) checkIds(engine, ids, "prompt");
  const suffixIds = infilling ? encodeText(engine, suffix, "suffix", false) : undefined;
  const promptTokens = ids.length + (suffixIds ? suffixIds.length + 3 : 0);
  const edits = request.dllm?.edit != null;
  const maxTokens = edits
    ? (request.max_tokens ?? DEFAULT_MAX_TOKENS)
    : tokensToGenerate(context, engine, promptTokens, request.max_tokens, {
        param: "max_tokens",
        fallback: DEFAULT_MAX_TOKENS,
      });
  if (maxTokens === 0 && !request.echo) {
    throw new ApiError("invalid_value", "max_tokens: 0 makes sense with echo only", { param: "max_tokens" });
  }
  const options = {
    ...samplingOptions(context, engine, request),
    ...(suffixIds && { suffix: suffixIds }),
    ...(request.logprobs != null && { logprobs: request.logprobs }),
    maxTokens,
    n,
  };
  return { prompt: ids, promptTokens, options };
}

/** The prompts as they are sent back; scored where logprobs are asked for. */
async function echoes(
  engine: TextEngine,
  request: CompletionRequest,
  jobs: readonly Job[],
  signal: AbortSignal,
): Promise<Echo[]> {
  const { tokenizer } = engine;
  const prompts = promptsOf(request.prompt);
  const echo: Echo[] = [];
  for (const [i, job] of jobs.entries()) {
    const ids = job.prompt as number[];
    const given = prompts[i];
    const text = typeof given === "string" ? given : tokenizer.decode(ids);
    if (request.logprobs == null) {
      echo.push({ text, ids });
      continue;
    }
    const score = await withSignal(engine.score(ids, { logprobs: request.logprobs }), signal);
    echo.push({ text, ids, scored: { texts: ids.map((id) => tokenizer.decode([id])), score } });
  }
  return echo;
}

/** Leaves work that cannot be stopped when the request is over. */
function withSignal<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}
