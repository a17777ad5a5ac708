import { setImmediate as nextTurn } from "node:timers/promises";
import type { StableDiffCoder } from "../checkpoint/index.js";
import { messageOf } from "../torch/errors.js";
import * as torch from "../torch/index.js";
import { EngineError } from "./errors.js";
import { maskIdOf, modelInfo } from "./load.js";
import type { EngineSettings } from "./options.js";
import { PagePool } from "./page-pool.js";
import { type AttentionKind, PagedKVCache } from "./paged-kv-cache.js";
import { cudaRecorder, PassGraphs, type Recorder } from "./pass-graphs.js";
import { type CoreReport, Reports } from "./reports.js";
import type { EngineRequest } from "./request.js";
import { type SampledToken, type SamplingRow, sampleRows } from "./sample.js";
import { type PlannedPart, Scheduler } from "./scheduler.js";
import { score } from "./score.js";
import { ScoreQueue, type ScoreRequest } from "./score-queue.js";
import { Sequence, type SequenceModel } from "./sequence.js";
import type { EngineEvent, ModelInfo, ScoreResult } from "./types.js";
import { type CoreStats, zeroCounters, zeroStats } from "./types.js";

/** Ways of running passes that no option selects; for tests. */
export interface CoreInternals {
  attention?: AttentionKind;
  recorder?: Recorder;
}

interface ActiveRequest {
  request: EngineRequest;
  sequences: Sequence[];
}

/**
 * The engine proper: a loop that plans a forward pass, runs it, samples tokens and reports. It runs in the thread of the
 * model. Its owner calls it, and gets reports between passes.
 */
export class EngineCore {
  readonly info: ModelInfo;
  readonly #coder: StableDiffCoder;
  readonly #settings: EngineSettings;
  readonly #pool: PagePool;
  readonly #cache: PagedKVCache;
  readonly #graphs: PassGraphs | undefined;
  readonly #scheduler: Scheduler;
  readonly #sequenceModel: SequenceModel;
  readonly #reports: Reports;
  readonly #scores: ScoreQueue;
  readonly #active = new Map<number, ActiveRequest>();
  readonly #counters = zeroCounters();
  readonly #seconds = zeroStats().seconds;
  /** performance.now() at the last call of {@link #spent}. */
  #accounted = performance.now();
  #loop: Promise<void> | undefined;
  #closed = false;

  constructor(
    coder: StableDiffCoder,
    settings: EngineSettings,
    report: (reports: CoreReport[]) => void,
    { attention, recorder }: CoreInternals = {},
  ) {
    this.#coder = coder;
    this.#settings = settings;
    this.#reports = new Reports(report, settings.eventInterval);
    const { model } = coder;
    const maskId = maskIdOf(coder, settings);
    const maxLength = Math.min(settings.maxModelLen ?? Number.POSITIVE_INFINITY, model.config.maxPositionEmbeddings);
    const { pageSize } = settings;
    const pages =
      settings.cacheBytes === undefined
        ? Math.ceil((settings.cacheTokens ?? 8 * maxLength) / pageSize)
        : Math.max(1, Math.floor(settings.cacheBytes / PagedKVCache.bytesPerPage(model, pageSize, attention)));
    this.#pool = new PagePool({ pages, pageSize, prefixCache: settings.prefixCache });
    this.#cache = new PagedKVCache(model, { pages: pages + 1, pageSize, attention });
    const onCuda = settings.cudaGraphs && model.device.startsWith("cuda");
    const recording = recorder ?? (onCuda ? cudaRecorder(model.device) : undefined);
    this.#graphs = recording && new PassGraphs(model, this.#cache, recording);
    this.#scheduler = new Scheduler(this.#pool, settings);
    this.#scores = new ScoreQueue(
      (request, signal) => this.#score(request, signal),
      {
        onStart: ({ key, tokens }) => {
          this.#counters.promptTokens += tokens.length;
          this.#reports.emit(key, [{ type: "start", index: 0, promptTokens: tokens.length, cachedTokens: 0 }]);
          this.#reports.flush();
        },
        onEnd: (request, outcome) => this.#scored(request, outcome),
      },
      () => this.#loop !== undefined,
    );
    const tokenizer = coder.hasTokenizer ? coder.tokenizer : undefined;
    const texts: string[] = [];
    const textOf = (id: number): string => {
      texts[id] ??= tokenizer ? tokenizer.decode([id]) : "";
      return texts[id];
    };
    this.#sequenceModel = { maskId, shift: settings.shift, tokenizer, textOf };
    this.info = modelInfo(coder, settings, { maskId, maxLength: Math.min(maxLength, pages * pageSize) });
  }

  /** Adds a request. Its events are reported. */
  generate(request: EngineRequest): void {
    const sequences = Array.from(
      { length: request.settings.n },
      (_, index) => new Sequence(request, index, this.#sequenceModel),
    );
    this.#active.set(request.key, { request, sequences });
    this.#counters.requests++;
    for (const sequence of sequences) this.#scheduler.add(sequence);
    this.#loop ??= this.#run();
  }

  /** Ends a request, as aborted or with an error. Its pages are free before the next pass. */
  abort(key: number, error?: EngineError): void {
    if (this.#scores.abort(key, error)) return;
    if (error) {
      this.#fail(key, error);
      this.#reports.flush();
      return;
    }
    const active = this.#active.get(key);
    if (!active) return;
    for (const sequence of active.sequences) {
      if (sequence.finishReason) continue;
      this.#emit(sequence, sequence.stop("abort"));
      this.#finish(sequence);
    }
    this.#reports.flush();
  }

  /** Adds a text to be scored. The result is reported. */
  score(request: ScoreRequest): void {
    this.#counters.requests++;
    this.#scores.add(request);
  }

  async #score({ tokens, settings }: ScoreRequest, signal: AbortSignal): Promise<ScoreResult> {
    const { textOf, maskId } = this.#sequenceModel;
    const { shift } = this.#settings;
    this.#spent(this.#loop === undefined ? "idle" : "other");
    const blockSize = settings.blockSize ?? this.#settings.blockSize;
    const result = await score(
      this.#coder.model,
      tokens,
      { ...settings, blockSize },
      { textOf, maskId, shift, signal },
    );
    this.#spent("model");
    return result;
  }

  #scored({ key, tokens, arrival }: ScoreRequest, outcome: { result?: ScoreResult; error?: EngineError }): void {
    const { result, error } = outcome;
    const finishReason = result ? "length" : error ? "error" : "abort";
    this.#counters.finished[finishReason]++;
    if (result) {
      this.#counters.scores++;
      this.#reports.scored(key, result);
    }
    if (error) this.#reports.fail(key, error);
    const usage = { promptTokens: tokens.length, cachedTokens: 0, completionTokens: 0, forwards: 0, denoisingSteps: 0 };
    const timings = { queue: 0, firstBlock: 0, total: (Date.now() - arrival) / 1000 };
    this.#reports.emit(key, [{ type: "done", index: 0, finishReason, usage, timings }]);
    this.#reports.end(key);
    this.#reports.flush();
  }

  stats(): CoreStats {
    const { running, preemptions } = this.#scheduler;
    const { total, used, cached, free, pageSize } = this.#pool;
    const { tensors, host, device } = torch.memory();
    this.#spent(this.#loop === undefined ? "idle" : "other");
    return {
      running: running.length + this.#scores.running,
      cacheUsage: used / total,
      pages: { total, used, cached, free, pageSize },
      counters: { ...structuredClone(this.#counters), preemptions, ...this.#graphCounters() },
      seconds: { ...this.#seconds },
      memory: { tensors, bytes: host + device },
    };
  }

  /** Stops after the current pass and ends unfinished requests with ENGINE_CLOSED. The model is not freed. */
  async close(): Promise<void> {
    this.#closed = true;
    const closed = new EngineError("ENGINE_CLOSED", "the engine was closed before the request was done");
    for (const key of [...this.#active.keys()]) this.#fail(key, closed);
    this.#reports.flush();
    await this.#scores.close(closed);
    await this.#loop;
    this.#graphs?.dispose();
    this.#cache.dispose();
  }

  async #run(): Promise<void> {
    this.#spent("idle");
    try {
      // Requests that are added together start together, and no caller waits for a pass.
      await nextTurn();
      while (!this.#closed && this.#active.size > 0) {
        this.#step();
        await nextTurn();
      }
    } finally {
      this.#loop = undefined;
      this.#spent("other");
    }
  }

  /** Counts the time since the last call as spent on this. */
  #spent(on: keyof CoreStats["seconds"]): void {
    const now = performance.now();
    this.#seconds[on] += (now - this.#accounted) / 1000;
    this.#accounted = now;
  }

  /** One pass of the model, and the reports of its results. */
  #step(): void {
    for (const sequence of this.#scheduler.admit()) this.#begin(sequence);
    const parts = this.#scheduler.plan();
    const decodes = parts.length > 0 && parts.every(({ sequence }) => sequence.isDecoding);
    // Reports do not wait for a long pass, or for one that never comes.
    if (!decodes) this.#reports.flush();
    if (parts.length === 0) return;
    const outputs = parts.map(({ sequence, complete }) => (complete ? sequence.rows() : { positions: [], rows: [] }));
    const before = this.#seconds.model;
    let sampled: SampledToken[];
    try {
      sampled = this.#forward(parts, outputs, decodes);
    } catch (error) {
      const message = `the pass failed: ${messageOf(error)}`;
      for (const { sequence } of parts) {
        this.#fail(sequence.request.key, new EngineError("ENGINE_INTERNAL", message, { cause: error }));
      }
      this.#reports.flush();
      return;
    }
    let at = 0;
    for (const [i, { sequence, to, complete }] of parts.entries()) {
      this.#scheduler.advance(sequence, to);
      sequence.forwards++;
      const count = outputs[i].rows.length;
      if (complete) this.#apply(sequence, sampled.slice(at, at + count));
      at += count;
    }
    this.#reports.pace(1000 * (this.#seconds.model - before));
  }

  /** Gives a sequence the tokens that were sampled for its rows. */
  #apply(sequence: Sequence, sampled: readonly SampledToken[]): void {
    const { key } = sequence.request;
    if (sampled.some(({ logprob }) => Number.isNaN(logprob))) {
      const message = "the model's logits are not numbers (NaN), or logitBias forbids every token";
      this.#fail(key, new EngineError("ENGINE_MODEL", message));
      return;
    }
    try {
      this.#emit(sequence, sequence.apply(sampled));
    } catch (error) {
      if (!(error instanceof EngineError)) throw error;
      this.#fail(key, error); // a custom commit rule that is wrong
      return;
    }
    if (sequence.finishReason) this.#finish(sequence);
  }

  #forward(
    parts: readonly PlannedPart[],
    outputs: readonly { positions: number[]; rows: SamplingRow[] }[],
    decodes: boolean,
  ): SampledToken[] {
    const { model } = this.#coder;
    this.#spent("other");
    const sampled = torch.scope(() =>
      torch.noGrad(() => {
        const pass = parts.map(({ sequence, from, to }, i) => ({
          from,
          to,
          stored: sequence.stored,
          pages: sequence.pages,
          tokens: sequence.tokens,
          visible: (position: number) => sequence.visible(position, to),
          rows: outputs[i].positions,
        }));
        const hidden = (decodes && this.#graphs?.forward(pass)) || this.#cache.forward(model, pass);
        const rows = outputs.flatMap((each) => each.rows);
        return hidden ? sampleRows(model.logits(hidden), rows, this.#sequenceModel.maskId) : [];
      }),
    );
    this.#spent("model");
    this.#counters.forwards++;
    for (const { from, to } of parts) this.#counters.forwardTokens += to - from;
    return sampled;
  }

  #graphCounters(): Pick<CoreStats["counters"], "graphCaptures" | "graphReplays"> {
    const { captures, replays } = this.#graphs?.counters ?? { captures: 0, replays: 0 };
    return { graphCaptures: captures, graphReplays: replays };
  }

  #begin(sequence: Sequence): void {
    const { request, index } = sequence;
    if (sequence.started) return;
    sequence.started = true;
    sequence.startedAt = Date.now();
    sequence.cachedTokens = Math.min(sequence.stored, request.prompt.length);
    this.#counters.promptTokens += request.prompt.length;
    this.#counters.prefixCacheQueries += request.prompt.length;
    this.#counters.prefixCacheHits += sequence.cachedTokens;
    const { cachedTokens } = sequence;
    this.#emit(sequence, [{ type: "start", index, promptTokens: request.prompt.length, cachedTokens }]);
  }

  #finish(sequence: Sequence): void {
    const { key } = sequence.request;
    this.#scheduler.remove(sequence);
    const done = sequence.done(Date.now());
    this.#counters.finished[done.finishReason]++;
    this.#counters.completionTokens += done.usage.completionTokens;
    const { steps, committed, remasked, blocks } = sequence.denoised;
    this.#counters.denoisingSteps += steps;
    this.#counters.committedTokens += committed;
    this.#counters.remaskedTokens += remasked;
    this.#counters.blocks += blocks;
    this.#emit(sequence, [done]);
    const active = this.#active.get(key);
    if (active?.sequences.every(({ finishReason }) => finishReason)) {
      this.#active.delete(key);
      this.#reports.end(key);
    }
  }

  #fail(key: number, error: EngineError): void {
    const active = this.#active.get(key);
    if (!active) return;
    this.#reports.fail(key, error);
    for (const sequence of active.sequences) {
      if (sequence.finishReason) continue;
      this.#emit(sequence, sequence.stop("error"));
      this.#finish(sequence);
    }
  }

  #emit({ request }: Sequence, events: EngineEvent[]): void {
    this.#reports.emit(request.key, events);
  }
}
