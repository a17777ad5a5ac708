import type { OutgoingHttpHeaders } from "node:http";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { FastifyReply, FastifyRequest } from "fastify";
import type { ScoreRequestOptions } from "../engine/index.js";
import { cacheSaltOf, noteIgnored, retryAfterOf, runningEngine, type ServerContext } from "./context.js";
import { toApiError } from "./engine-error.js";
import { eventsOf, type Tagged, watched } from "./events.js";
import { noteFailure, noteGeneration } from "./operations/access-log.js";
import { ChoiceMeter } from "./operations/meter.js";
import { ClientGone, RequestScope } from "./operations/request-scope.js";
import { EventStream } from "./operations/sse.js";
import type { Job } from "./prepare.js";
import { dllmStep, dllmTotals, type Generated, type ResponseFormat, UsageSum } from "./protocol/response-format.js";
import type { DllmStep } from "./protocol/responses.js";

/** What is to be done for a request, and how the answer is written. */
export interface Work {
  jobs: readonly Job[];
  format: ResponseFormat;
  stream: boolean;
  includeUsage: boolean;
  continuousUsage: boolean;
  streamSteps: boolean;
  /** What is to be done first, once the request is taken. */
  prepare?: (run: ScoreRequestOptions) => Promise<void>;
  /** When the request arrived, by performance.now(). */
  arrived: number;
  /** Fields of the request that were left out. */
  ignored: readonly string[];
}

/** Generates the choices of a request and sends the response. Both endpoints use it for every request. */
export async function answer(
  context: ServerContext,
  request: FastifyRequest,
  reply: FastifyReply,
  work: Work,
): Promise<unknown> {
  const { metrics, openRequests } = context;
  const jobs = work.jobs.map(({ options, ...job }) => {
    return { ...job, options: { ...options, cacheSalt: cacheSaltOf(context, request, options.cacheSalt) } };
  });
  const choices = jobs.reduce((sum, { options }) => sum + options.n, 0);
  const promptTokens = jobs.reduce((sum, job) => sum + job.promptTokens * job.options.n, 0);
  const maxTokens = jobs.reduce((sum, { options }) => sum + options.maxTokens * options.n, 0);
  using reservation = runningEngine(context).reserve({ choices, promptTokens, maxTokens });
  const scope = new RequestScope(reply.raw, reservation.signal);
  const { signal } = scope;
  openRequests.add(scope);
  const meters = Array.from({ length: choices }, () => new ChoiceMeter(metrics, work.arrived));
  if (jobs.length > 0) {
    metrics.paramsN.observe(jobs[0].options.n);
    metrics.paramsMaxTokens.observe(jobs[0].options.maxTokens);
  }
  const usage = new UsageSum();
  const { streamSteps } = work;
  const events = watched(eventsOf(context, jobs, { streamSteps, reservation, signal }), { signal, meters, usage });
  try {
    if (work.prepare && (await hasLeft(request))) scope.end(new ClientGone("the client has closed the connection"));
    await work.prepare?.({ signal, reservation });
    return work.stream
      ? await streamed(context, reply, work, events, scope, usage)
      : await whole(reply, work, events, usage);
  } catch (error) {
    scope.end(error instanceof Error ? error : new Error(String(error)));
    // The client's leaving, or a limit, says more than how the engine ended for it.
    const { reason: why } = signal;
    const reason = why instanceof ClientGone ? why : toApiError(why, () => retryAfterOf(context));
    for (const meter of meters) meter.end(reason instanceof ClientGone ? "abort" : "error");
    noteFailure(request, reason);
    if (reply.sent) return reply; // the stream has reported the error
    throw reason;
  } finally {
    const { prompt_tokens, completion_tokens } = usage.toUsage();
    noteGeneration(request, { id: work.format.id, prompt_tokens, completion_tokens, choices });
    openRequests.delete(scope);
    scope.dispose();
  }
}

/**
 * A client that sent its request and left at once is known to be gone when its socket is read again: on the turn of the
 * event loop after this one. Nothing need be begun for it. (The response hears of it only when the socket is closed, turns
 * later.)
 */
async function hasLeft({ raw: { socket } }: FastifyRequest): Promise<boolean> {
  await nextTurn();
  await nextTurn();
  return socket.readableEnded || socket.destroyed;
}

async function whole(
  reply: FastifyReply,
  work: Work,
  events: AsyncIterable<Tagged>,
  usage: UsageSum,
): Promise<unknown> {
  const choices: Generated[] = [];
  work.jobs.forEach(({ options }) => {
    for (let i = 0; i < options.n; i++) {
      const index = choices.length;
      choices.push({ index, text: "", ids: [], tokens: [], finishReason: "length", stopReason: undefined });
    }
  });
  const steps: DllmStep[] = [];
  for await (const { choice, event } of events) {
    const into = choices[choice];
    if (event.type === "text") {
      into.text += event.text;
      into.ids.push(...event.ids);
      into.tokens.push(...event.tokens);
    } else if (event.type === "denoise") {
      if (work.streamSteps) steps.push(dllmStep(choice, event));
    } else if (event.type === "done") {
      into.finishReason = event.finishReason;
      into.stopReason = event.stopReason;
    }
  }
  const dllm = { ...usage.toDllm(), ...work.format.totals?.(), ...(work.streamSteps && { steps }) };
  const body = { ...work.format.response(choices, usage.toUsage()), dllm };
  noteIgnored(reply, work.ignored);
  return reply.send(body);
}

async function streamed(
  context: ServerContext,
  reply: FastifyReply,
  work: Work,
  events: AsyncIterable<Tagged>,
  { signal }: RequestScope,
  usage: UsageSum,
): Promise<unknown> {
  const { format, includeUsage, continuousUsage, streamSteps, ignored } = work;
  const stream = new EventStream(reply.raw, context.settings.keepAlive);
  const open = () => {
    noteIgnored(reply, ignored);
    reply.hijack();
    stream.open(reply.getHeaders() as OutgoingHttpHeaders);
  };
  // Until the first event an error is answered with its own status: a full queue, a wait that was too long.
  const send = async (chunk: object, more: object = {}) => {
    if (!stream.isOpen) open();
    const also = continuousUsage ? { usage: usage.toUsage() } : includeUsage ? { usage: null } : {};
    await stream.send({ ...also, ...chunk, ...more }, signal);
  };
  try {
    for await (const { choice: index, event } of events) {
      if (event.type === "start") {
        const opening = format.opening(index);
        if (opening) await send(opening);
        else if (!stream.isOpen) open();
      } else if (event.type === "denoise") {
        if (!streamSteps) continue;
        await send(format.chunk({ index, text: "", ids: [], tokens: [] }), { dllm: dllmStep(index, event) });
      } else if (event.type === "text") {
        const { text, ids, tokens } = event;
        if (text !== "" || ids.length > 0) await send(format.chunk({ index, text, ids, tokens }));
      } else {
        const { finishReason, stopReason, usage: used } = event;
        const chunk = format.chunk({ index, text: "", ids: [], tokens: [], done: { finishReason, stopReason } });
        const totals = dllmTotals(used.completionTokens, used.forwards, used.denoisingSteps);
        await send(chunk, { dllm: { index, ...totals } });
      }
    }
    if (!stream.isOpen) open();
    if (includeUsage) await stream.send({ ...format.usageChunk(usage.toUsage()), dllm: usage.toDllm() }, signal);
    stream.close();
  } catch (error) {
    if (!stream.isOpen) throw error;
    const reason = signal.aborted ? signal.reason : error;
    if (reason instanceof ClientGone) {
      stream.abandon();
      throw reason;
    }
    const apiError = toApiError(reason, () => retryAfterOf(context));
    stream.fail(apiError.toBody());
    throw error;
  }
  return reply;
}
