import { performance } from "node:perf_hooks";
import type { DoneEvent, EngineEvent } from "../../engine/index.js";
import type { Metrics } from "./metrics.js";

/** Takes the times of one choice from its events and reports them. Times are seconds since the request arrived. */
export class ChoiceMeter {
  readonly #metrics: Metrics;
  readonly #arrived: number;
  #started: number | undefined;
  #firstText: number | undefined;
  #lastText: number | undefined;
  #block: { number: number; at: number } | undefined;
  #promptTokens = 0;
  #tokens = 0;
  #over = false;

  /** @param arrived by performance.now() */
  constructor(metrics: Metrics, arrived: number) {
    this.#metrics = metrics;
    this.#arrived = arrived;
  }

  see(event: EngineEvent): void {
    const now = this.#now();
    const metrics = this.#metrics;
    if (event.type === "start") {
      this.#started ??= now;
      this.#promptTokens = event.promptTokens;
      metrics.queueTime.observe(now);
    } else if (event.type === "text") {
      if (event.ids.length === 0) return;
      this.#tokens += event.ids.length;
      if (this.#lastText === undefined) {
        this.#firstText = now;
        metrics.timeToFirstToken.observe(now);
        metrics.prefillTime.observe(now - (this.#started ?? 0));
      } else {
        metrics.interTokenLatency.observe(now - this.#lastText);
      }
      this.#lastText = now;
      // Tokens become final with their block.
      const block = event.tokens.at(-1)?.block ?? 0;
      if (this.#block !== undefined && block > this.#block.number) {
        metrics.blockLatency.observe((now - this.#block.at) / (block - this.#block.number));
      }
      if (block !== this.#block?.number) this.#block = { number: block, at: now };
    } else if (event.type === "done") {
      const { completionTokens, forwards } = event.usage;
      if (event.timings.firstBlock > 0) metrics.timeToFirstBlock.observe(event.timings.firstBlock);
      this.#tokens = completionTokens;
      if (forwards > 0 && completionTokens > 0) metrics.tokensPerForward.observe(completionTokens / forwards);
      this.end(event.finishReason);
    }
  }

  /** The choice is over, also without a last event; counted once. */
  end(reason: DoneEvent["finishReason"]): void {
    if (this.#over) return;
    this.#over = true;
    const metrics = this.#metrics;
    metrics.finished(reason);
    const now = this.#now();
    metrics.e2eLatency.observe(now);
    if (this.#started === undefined) return;
    metrics.inferenceTime.observe(now - this.#started);
    metrics.promptTokens.observe(this.#promptTokens);
    metrics.generationTokens.observe(this.#tokens);
    if (this.#firstText === undefined) return;
    metrics.decodeTime.observe(now - this.#firstText);
    if (this.#tokens > 1) metrics.timePerOutputToken.observe((now - this.#firstText) / (this.#tokens - 1));
  }

  #now(): number {
    return (performance.now() - this.#arrived) / 1000;
  }
}
