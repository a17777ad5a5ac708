import type { Alternative, NewPass, Token } from "./recording.js";
import { type Settings, stopStrings, type Texts } from "./settings.js";

export interface Message {
  role: "system" | "user" | "assistant";
  content: string;
}

export type Mode = "diffusion" | "autoregressive";

export interface Request {
  path: string;
  body: Record<string, unknown>;
}

/** The request for a run: with the events of every pass and the most likely tokens. */
export function requestOf(settings: Settings, texts: Texts, history: readonly Message[], mode: Mode): Request {
  const { alternatives } = settings;
  const stop = stopStrings(settings.stop);
  const shared = {
    max_tokens: settings.maxTokens,
    temperature: settings.temperature,
    ...(settings.topP < 1 && { top_p: settings.topP }),
    ...(settings.topK > 0 && { top_k: settings.topK }),
    ...(settings.seed !== null && { seed: settings.seed }),
    ...(stop.length > 0 && { stop }),
    stream: true,
    stream_options: { include_usage: true },
    dllm: dllmOf(settings, mode),
  };
  if (settings.task === "chat") {
    const system: Message[] = texts.system.trim() === "" ? [] : [{ role: "system", content: texts.system }];
    const messages = [...system, ...history, { role: "user", content: texts.message }];
    const top = alternatives > 0 && { top_logprobs: alternatives };
    return { path: "v1/chat/completions", body: { messages, ...shared, logprobs: true, ...top } };
  }
  const what = settings.task === "infill" ? { prompt: texts.prefix, suffix: texts.suffix } : { prompt: texts.prompt };
  return { path: "v1/completions", body: { ...what, ...shared, logprobs: alternatives } };
}

function dllmOf(settings: Settings, mode: Mode): Record<string, unknown> {
  if (mode === "autoregressive") return { mode, stream_steps: true };
  const { rule, steps, threshold, factor, bound, blockSize } = settings;
  const share = steps !== null && { steps };
  const commit = {
    static: { rule, ...share },
    threshold: { rule, value: threshold },
    hybrid: { rule, value: threshold, ...share },
    factor: { rule, factor },
    entropy: { rule, bound },
  }[rule];
  return { mode, ...(blockSize !== null && { block_size: blockSize }), commit, stream_steps: true };
}

/** What one chunk of a stream says. */
export interface ChunkFacts {
  passes: Omit<NewPass, "at">[];
  text: string;
  finishReason?: string;
  promptTokens?: number;
  completionTokens?: number;
  /** Passes of the model, prefill included, as the server counts them. */
  forwards?: number;
  error?: ServerFault;
}

/** An error in OpenAI's form. */
export interface ServerFault {
  message: string;
  code: string;
  param?: string;
}

type Json = Record<string, unknown>;
const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const objects = (value: unknown): Json[] => (Array.isArray(value) ? value : [value]).filter(isObject);
const numberOf = (value: unknown): number | undefined => (typeof value === "number" ? value : undefined);
const textOf = (value: unknown): string => (typeof value === "string" ? value : "");

/** Reads a chunk of /v1/completions or /v1/chat/completions. Fields that are missing or of a wrong type are left out. */
export function readChunk(chunk: unknown): ChunkFacts {
  if (!isObject(chunk)) return { passes: [], text: "" };
  const error = faultOf(chunk);
  if (error) return { passes: [], text: "", error };
  const choice = objects(chunk.choices)[0] ?? {};
  const delta = isObject(choice.delta) ? choice.delta : {};
  const facts: ChunkFacts = { passes: [], text: textOf(choice.text) + textOf(delta.content) };
  if (isObject(chunk.dllm)) {
    if (Array.isArray(chunk.dllm.committed)) facts.passes.push(readPass(chunk.dllm));
    facts.forwards = numberOf(chunk.dllm.forwards);
  }
  if (typeof choice.finish_reason === "string") facts.finishReason = choice.finish_reason;
  if (isObject(chunk.usage)) {
    facts.promptTokens = numberOf(chunk.usage.prompt_tokens);
    facts.completionTokens = numberOf(chunk.usage.completion_tokens);
  }
  return facts;
}

function readPass(step: Json): Omit<NewPass, "at"> {
  const committed = objects(step.committed).map(readToken);
  const positions = committed.map((token) => token.position);
  return {
    block: numberOf(step.block) ?? 0,
    step: numberOf(step.step) ?? 0,
    start: numberOf(step.start) ?? Math.min(...positions),
    end: numberOf(step.end) ?? Math.max(...positions) + 1,
    masksLeft: numberOf(step.masks_left) ?? 0,
    committed,
    remasked: Array.isArray(step.remasked) ? step.remasked.filter((each) => typeof each === "number") : [],
  };
}

function readToken(token: Json): Omit<Token, "pass"> {
  return {
    position: numberOf(token.position) ?? 0,
    id: numberOf(token.id) ?? -1,
    text: textOf(token.text),
    logprob: numberOf(token.logprob) ?? null,
    alternatives: readAlternatives(token.top_logprobs),
  };
}

function readAlternatives(top: unknown): Alternative[] {
  return objects(top)
    .map((each) => ({ text: textOf(each.text), logprob: numberOf(each.logprob) ?? Number.NEGATIVE_INFINITY }))
    .sort((a, b) => b.logprob - a.logprob);
}

/** The error of a body or a chunk, if it is one. */
export function faultOf(body: unknown): ServerFault | undefined {
  if (!isObject(body) || !isObject(body.error)) return undefined;
  const { message, code, param } = body.error;
  return {
    message: textOf(message) || "The server gave no message.",
    code: code == null ? "" : String(code),
    ...(typeof param === "string" && { param }),
  };
}

/** What GET /v1/models tells of the first model. undefined: not told. */
export interface Model {
  id: string;
  maxLength?: number;
  blockSize?: number;
  chat?: boolean;
  infill?: boolean;
}

export function readModels(body: unknown): Model | undefined {
  const first = isObject(body) ? objects(body.data)[0] : undefined;
  if (!first) return undefined;
  const dllm = isObject(first.dllm) ? first.dllm : {};
  const flag = (value: unknown) => (typeof value === "boolean" ? value : undefined);
  return {
    id: textOf(first.id),
    maxLength: numberOf(first.max_model_len),
    blockSize: numberOf(dllm.block_size),
    chat: flag(dllm.chat),
    infill: flag(dllm.infill),
  };
}
