import { setTimeout as sleep } from "node:timers/promises";
import { Admission, type AdmissionLimits } from "../../lib/engine/admission.js";
import type {
  CommittedToken,
  EngineEvent,
  EngineStats,
  GenerateOptions,
  ModelInfo,
  RequestOptions,
  Reservation,
  ReserveOptions,
  ScoreOptions,
  ScoreResult,
} from "../../lib/engine/index.js";
import { EngineError } from "../../lib/engine/index.js";
import { engineOptionsSchema, requestSizeSchema } from "../../lib/engine/options.js";
import { zeroCounters } from "../../lib/engine/types.js";
import type { ServedEngine } from "../../lib/server/index.js";
import { Tokenizer } from "../../lib/tokenizer/index.js";
import { TOKENIZER } from "../cli/support.js";

/** What a {@link ScriptedEngine} is to do. */
export interface Script {
  /** Milliseconds a block takes. Default 0: as fast as it goes. */
  blockTime?: number;
  /** Choices at once; others wait. */
  maxNumSeqs?: number;
  /** Of the queue and of time; as in an engine that was made without options. */
  limits?: Partial<AdmissionLimits>;
  model?: Partial<ModelInfo>;
  /** Thrown after this many blocks. */
  fail?: { after: number; error: Error };
}

/**
 * Stands in for the engine where a test is about time and failure, which the real one does not have on demand: how long
 * a block takes, when the worker dies. Its queue has the real engine's admission. What it writes is a counting sequence. Tests of the protocol use the real engine.
 */
export class ScriptedEngine implements ServedEngine {
  readonly tokenizer = Tokenizer.fromPretrained(TOKENIZER);
  readonly model: ModelInfo;
  readonly script: Script;
  state: EngineStats["state"] = "ready";
  running = 0;
  waiting = 0;
  /** Requests that were given up by their signal. */
  aborted = 0;
  readonly counters = zeroCounters();
  readonly #admission: Admission;

  constructor(script: Script = {}) {
    this.script = script;
    this.#admission = new Admission({ ...engineOptionsSchema.parse({}), ...script.limits });
    this.model = {
      name: "scripted",
      vocabSize: 4096,
      parameters: 1000,
      maxLength: 512,
      contextLength: 512,
      maskId: 5,
      eosIds: [2],
      hasTokenizer: true,
      hasFim: true,
      hasChatTemplate: true,
      dtype: "float32",
      device: "cpu",
      quantization: null,
      blockSize: 4,
      ...script.model,
    };
  }

  reserve(size: ReserveOptions): Reservation {
    return this.#admission.admit(requestSizeSchema.parse(size));
  }

  async *generate(
    prompt: string | number[],
    options: GenerateOptions,
    { signal: given, reservation }: RequestOptions = {},
  ): AsyncGenerator<EngineEvent> {
    const { n = 1, maxTokens = 16 } = options;
    const size = { choices: n, promptTokens: n * prompt.length, maxTokens: n * maxTokens };
    using own = reservation ? undefined : this.reserve(size);
    const place = reservation ?? (own as Reservation);
    place.claim(n);
    const signal = AbortSignal.any([place.signal, ...(given ? [given] : [])]);
    const { blockTime = 0, maxNumSeqs = 64, fail } = this.script;
    const began = performance.now();
    const seconds = () => (performance.now() - began) / 1000;
    const promptTokens = prompt.length;
    const pause = async (time: number) => {
      if (time > 0) await sleep(time, undefined, { signal }).catch(() => {});
      if (!signal.aborted) return;
      this.aborted++;
      throw signal.reason;
    };
    this.waiting++;
    try {
      while (this.running >= maxNumSeqs) await pause(5);
    } finally {
      this.waiting--;
    }
    this.running++;
    try {
      const queue = seconds();
      for (let index = 0; index < n; index++) {
        place.begin();
        place.leaveQueue(1, promptTokens);
        yield { type: "start", index, promptTokens, cachedTokens: 0 };
        const total = maxTokens;
        let written = 0;
        for (let block = 0; written < total; block++) {
          await pause(blockTime);
          if (fail && block >= fail.after) throw fail.error;
          const tokens: CommittedToken[] = [];
          for (let i = 0; i < Math.min(4, total - written); i++) {
            const id = this.tokenizer.encode(` ${(written + i) % 10}`, { addSpecialTokens: false })[0];
            tokens.push({
              position: promptTokens + written + i,
              id,
              text: this.tokenizer.decode([id]),
              logprob: -0.5,
              step: 0,
              block,
            });
          }
          written += tokens.length;
          this.counters.completionTokens += tokens.length;
          const start = promptTokens + written - tokens.length;
          yield { type: "denoise", index, block, step: 0, start, end: start + 4, masksLeft: 0, committed: tokens };
          const ids = tokens.map(({ id }) => id);
          place.generated(ids.length);
          yield { type: "text", index, text: this.tokenizer.decode(ids), ids, tokens };
        }
        const forwards = Math.ceil(total / 4);
        const usage = {
          promptTokens,
          cachedTokens: 0,
          completionTokens: total,
          forwards,
          denoisingSteps: forwards,
        };
        const timings = { queue, firstBlock: queue, total: seconds() };
        yield { type: "done", index, finishReason: "length", usage, timings };
      }
    } finally {
      this.running--;
    }
  }

  async score(
    tokens: number[],
    options: ScoreOptions = {},
    { reservation }: RequestOptions = {},
  ): Promise<ScoreResult> {
    using own = reservation ? undefined : this.reserve({ choices: 1, promptTokens: tokens.length });
    (reservation ?? own)?.begin();
    const logprobs = tokens.map((_, i) => (i === 0 ? null : -1));
    const top = options.logprobs ? { topLogprobs: tokens.map(() => null) } : {};
    const nats = tokens.length - 1;
    return { mode: "autoregressive", logprobs, ...top, nll: nats, tokens: nats, standardError: 0, mcSamples: 1 };
  }

  stats(): EngineStats {
    return {
      state: this.state,
      running: this.running,
      waiting: this.waiting,
      waitingTokens: this.#admission.stats().waitingTokens,
      admission: this.#admission.stats(),
      cacheUsage: 0.25,
      pages: { total: 4, used: 1, cached: 0, free: 3, pageSize: 32 },
      counters: { ...this.counters, rejected: { ...this.#admission.rejected } },
      seconds: { model: 0, other: 0, idle: 0 },
      memory: { tensors: 0, bytes: 0 },
    };
  }

  async close(): Promise<void> {
    this.state = "closed";
  }
}

export const workerDied = () => new EngineError("ENGINE_WORKER", "the worker died: signal SIGKILL");
