import { type CommitRule, type CommitState, commitFromConfig } from "../diffusion/commit.js";
import type { TokenText } from "../tokenizer/token-stream.js";
import { messageOf } from "../torch/errors.js";
import { EngineError } from "./errors.js";
import { LogitsProcessors } from "./logits-processors.js";
import type { PrefixNode } from "./page-pool.js";
import type { EngineRequest } from "./request.js";
import type { RowParams, SampledToken, SamplingRow } from "./sample.js";
import { sequenceSeed } from "./sample-token.js";
import { SequenceOutput } from "./sequence-output.js";
import type { CommittedToken, DoneEvent, EngineEvent } from "./types.js";

/** What a sequence depends on of the model. */
export interface SequenceModel {
  maskId: number;
  /** Whether predictions come from the position before. */
  shift: boolean;
  /**
   * Whether every position attends to the whole canvas: blocks begin with the first generated token, as in LLaDA's
   * sampler, and an edit keeps all of the prompt. Otherwise blocks are aligned to position 0.
   */
  bidirectional?: boolean;
  tokenizer: TokenText | undefined;
  textOf(id: number): string;
}

/**
 * One choice of a request: its tokens, how far its keys and values are stored, and the block that is denoised. All on the
 * host, so a sequence that loses its pages can resume later.
 */
export class Sequence {
  readonly request: EngineRequest;
  readonly index: number;
  /** 1 in AR decoding. */
  readonly blockSize: number;
  readonly autoregressive: boolean;
  /** Prompt and output, masked where not committed. */
  readonly tokens: Int32Array;
  /** The generated positions. */
  readonly firstNew: number;
  readonly lastNew: number;

  /** Tokens whose keys and values are in the pages. */
  stored = 0;
  pages: number[] = [];
  /** Pages offered to the prefix cache, and the place of the last of them in its tree. */
  published = 0;
  parent: PrefixNode = 0;
  /** Order among all sequences, for fairness. */
  order = 0;
  cachedTokens = 0;
  started = false;
  forwards = 0;
  /** What denoising did: passes, tokens committed and masked again, blocks completed. All 0 in AR decoding. */
  readonly denoised = { steps: 0, committed: 0, remasked: 0, blocks: 0 };

  /** Bounds of the current block. AR: start = end = the position to be generated. */
  start: number;
  end: number;
  /** Date.now() of its start and of its first complete block. */
  startedAt = 0;
  firstBlockAt = 0;

  readonly #model: SequenceModel;
  readonly #rule: CommitRule;
  readonly #params: RowParams;
  readonly #processors: LogitsProcessors;
  readonly #output: SequenceOutput;
  #block = 0;
  #step = 0;
  /** Passes that chose tokens. */
  #passes = 0;
  #masked: number[] = [];
  #initiallyMasked = 0;
  #roundsLeft = 0;

  constructor(request: EngineRequest, index: number, model: SequenceModel) {
    const { settings, prompt } = request;
    this.request = request;
    this.index = index;
    this.#model = model;
    this.autoregressive = settings.mode === "autoregressive";
    this.blockSize = this.autoregressive ? 1 : settings.blockSize;
    const B = this.blockSize;
    if (settings.edit) {
      const { start, end } = settings.edit;
      this.firstNew = start;
      this.lastNew = end;
      const kept = model.bidirectional ? prompt.length : Math.min(prompt.length, Math.ceil(end / B) * B);
      this.tokens = prompt.slice(0, kept).fill(model.maskId, start, end);
    } else {
      this.firstNew = prompt.length;
      this.lastNew = prompt.length + settings.maxTokens;
      this.tokens = new Int32Array(this.lastNew).fill(model.maskId);
      this.tokens.set(prompt);
    }
    this.#rule = commitFromConfig(settings.commit ?? { rule: "static", steps: settings.steps });
    this.#processors = new LogitsProcessors(request);
    const { firstNew, lastNew } = this;
    const { stopTokenIds, stopTokens } = request;
    const { tokenizer } = model;
    this.#output = new SequenceOutput({
      index,
      firstNew,
      lastNew,
      stopTokenIds,
      stopTokens,
      stop: settings.stop,
      tokenizer,
    });
    const { temperature, topK, topP, minP, seed, logprobs } = settings;
    const entropy = this.#rule.usesEntropy ?? false;
    const forbidMask = !this.autoregressive;
    // topP 0 means the most likely token only, which any positive share includes.
    const share = Math.max(topP, Number.EPSILON);
    const draws = { temperature, topK, topP: share, minP, seed: sequenceSeed(seed, index) };
    this.#params = { ...draws, logprobs, entropy, forbidMask };
    const isAligned = !this.autoregressive && !model.bidirectional;
    this.start = isAligned ? Math.floor(this.firstNew / B) * B : this.firstNew;
    this.end = this.start;
    if (!this.autoregressive) this.#openBlock();
  }

  /** Set at the end. */
  get finishReason(): DoneEvent["finishReason"] | undefined {
    return this.#output.finishReason;
  }

  /** The end of the tokens that a pass must hold for the current block to be denoised. */
  get goal(): number {
    return this.end;
  }

  /** Prompt tokens that a prefix from the cache may cover: the pass for the first logits must have something to do. */
  get sharable(): number {
    return this.autoregressive ? this.firstNew - 1 : this.start;
  }

  /** Where a pass begins: with the shift, every pass computes the token before the block again. */
  get from(): number {
    if (this.autoregressive || !this.#model.shift) return this.stored;
    return Math.max(0, Math.min(this.stored, this.start - 1));
  }

  /** Tokens that are final after the current pass: only their keys and values may be kept. */
  get final(): number {
    return this.start;
  }

  get isPrefilled(): boolean {
    return this.stored >= this.start;
  }

  /** Whether a pass of a block or two takes it to its goal: no prompt is left that would need chunks. */
  get isDecoding(): boolean {
    return this.goal - this.stored <= 2 * this.blockSize;
  }

  /** What each token of a pass sees: keys before this position. */
  visible(position: number, to: number): number {
    return Math.min((Math.floor(position / this.blockSize) + 1) * this.blockSize, to);
  }

  /** The rows of logits of the pass that reaches `goal`: their positions, and how to sample from them. */
  rows(): { positions: number[]; rows: SamplingRow[] } {
    const params = this.#rowParams();
    if (this.autoregressive) {
      const row = { params, position: this.end, pass: 0, candidate: -1 };
      return { positions: [this.end - 1], rows: [row] };
    }
    const open = this.#roundsLeft > 0 ? this.#generated() : this.#masked;
    const { maskId, shift } = this.#model;
    return {
      positions: shift ? open.map((position) => position - 1) : open,
      rows: open.map((position) => {
        const id = this.tokens[position];
        return { params, position, pass: this.#step, candidate: id === maskId ? -1 : id };
      }),
    };
  }

  /** Applies the tokens sampled for {@link rows}. Sets finishReason at the end. @returns events */
  apply(choices: readonly SampledToken[]): EngineEvent[] {
    const events = this.autoregressive ? this.#applyToken(choices[0]) : this.#applyBlock(choices);
    if (this.finishReason) this.#noteFirstBlock();
    return events;
  }

  /** Ends the sequence for another reason. @returns the final text that was held back */
  stop(reason: "abort" | "error"): EngineEvent[] {
    return this.#output.cut(reason);
  }

  done(now: number): DoneEvent {
    const { arrival } = this.request;
    const { finishReason = "error", stopReason } = this.#output;
    const seconds = (at: number) => Math.max(0, (at === 0 ? now : at) - arrival) / 1000;
    return {
      type: "done",
      index: this.index,
      finishReason,
      ...(stopReason !== undefined && { stopReason }),
      usage: {
        promptTokens: this.request.prompt.length,
        cachedTokens: this.cachedTokens,
        completionTokens: this.#output.tokens,
        forwards: this.forwards,
        denoisingSteps: this.#passes,
      },
      timings: { queue: seconds(this.startedAt), firstBlock: seconds(this.firstBlockAt), total: seconds(now) },
    };
  }

  #openBlock(): void {
    this.end = Math.min(this.start + this.blockSize, this.tokens.length);
    this.#masked = this.#generated();
    this.#initiallyMasked = this.#masked.length;
    this.#step = 0;
    this.#roundsLeft = this.request.settings.remask?.rounds ?? 0;
  }

  /** The block's positions that are generated. */
  #generated(): number[] {
    const from = Math.max(this.start, this.firstNew);
    return Array.from({ length: Math.max(0, Math.min(this.end, this.lastNew) - from) }, (_, i) => from + i);
  }

  #applyToken(choice: SampledToken): EngineEvent[] {
    const position = this.end;
    this.#passes++;
    this.#noteFirstBlock();
    if (this.#output.isStop(choice.id)) return this.#output.endAt(choice.id);
    this.tokens[position] = choice.id;
    const token = this.#commit(position, choice, 0, position - this.firstNew);
    this.start = this.end = position + 1;
    const denoise: EngineEvent = {
      type: "denoise",
      index: this.index,
      block: position - this.firstNew,
      step: 0,
      start: position,
      end: position + 1,
      masksLeft: 0,
      committed: [token],
    };
    return this.#output.emitTo(position + 1, this.request.settings.events === "all" ? [denoise] : []);
  }

  #applyBlock(choices: readonly SampledToken[]): EngineEvent[] {
    const { maskId } = this.#model;
    const { remask, events: wanted } = this.request.settings;
    const rows = this.#roundsLeft > 0 ? this.#generated() : this.#masked;
    const open = rows
      .map((position, k) => ({ position, k }))
      .filter(({ position }) => this.tokens[position] === maskId);
    const committed: CommittedToken[] = [];
    const again =
      this.#roundsLeft > 0 ? rows.filter((position, k) => isDoubted(this.tokens[position], choices[k])) : [];
    function isDoubted(id: number, choice: SampledToken): boolean {
      return id !== maskId && Math.exp(choice.candidateLogprob) < (remask?.below ?? 0);
    }
    if (open.length > 0) {
      const confidence = Float64Array.from(open, ({ k }) => choices[k].confidence);
      const entropy = this.#params.entropy ? Float64Array.from(open, ({ k }) => choices[k].entropy) : undefined;
      const state = { step: this.#step, initiallyMasked: this.#initiallyMasked, entropy };
      for (const i of chosenBy(this.#rule, confidence, state)) {
        const { position, k } = open[i];
        this.tokens[position] = choices[k].id;
        committed.push(this.#commit(position, choices[k], this.#step, this.#block));
      }
    }
    if (again.length > 0) {
      this.#roundsLeft--;
      this.denoised.remasked += again.length;
      for (const position of again) this.tokens[position] = maskId;
    }
    this.#masked = this.#generated().filter((position) => this.tokens[position] === maskId);
    const step = this.#step++;
    this.#passes++;
    this.denoised.steps++;
    this.denoised.committed += committed.length;
    const events: EngineEvent[] = [];
    if (wanted === "all") {
      const { index, start, end } = this;
      const masksLeft = this.#masked.length;
      const block = this.#block;
      events.push({
        type: "denoise",
        ...{ index, block, step, start, end, masksLeft, committed },
        ...(again.length > 0 && { remasked: again }),
      });
    }
    // With rounds left, a complete block is checked once more.
    const checked = this.#roundsLeft === 0 || (open.length === 0 && again.length === 0);
    const complete = this.#masked.length === 0 && checked;
    const known = complete ? this.end : remask ? this.start : (this.#masked[0] ?? this.end);
    if (complete) {
      this.denoised.blocks++;
      this.#noteFirstBlock();
      this.#block++;
      this.start = this.end;
      if (this.start < this.lastNew) this.#openBlock();
    }
    return this.#output.emitTo(Math.min(known, this.lastNew), events);
  }

  #commit(position: number, choice: SampledToken, step: number, block: number): CommittedToken {
    const { textOf } = this.#model;
    const token: CommittedToken = {
      ...{ position, id: choice.id, text: textOf(choice.id), logprob: choice.logprob, step, block },
      ...(choice.top && { topLogprobs: choice.top.map(({ id, logprob }) => ({ id, text: textOf(id), logprob })) }),
    };
    this.#output.commit(token);
    return token;
  }

  #noteFirstBlock(): void {
    if (this.firstBlockAt === 0) this.firstBlockAt = Date.now();
  }

  #rowParams(): RowParams {
    const end = this.autoregressive ? this.end : this.lastNew;
    const changes = this.#processors.changes(this.tokens, this.firstNew, end, this.#model.maskId);
    return changes ? { ...this.#params, changes } : this.#params;
  }
}

/** @throws EngineError ENGINE_OPTIONS for a custom rule that fails, or breaks the contract of {@link CommitRule.choose} */
function chosenBy(rule: CommitRule, confidence: Float64Array, state: CommitState): readonly number[] {
  const fail = (what: string, cause?: unknown) =>
    new EngineError("ENGINE_OPTIONS", `commit rule "${rule.name}" ${what}`, { cause });
  let chosen: readonly number[];
  try {
    chosen = rule.choose(confidence, state);
  } catch (error) {
    throw fail(`failed: ${messageOf(error)}`, error);
  }
  const masked = confidence.length;
  const isValid = chosen.every((i) => Number.isInteger(i) && i >= 0 && i < masked);
  if (isValid && chosen.length > 0 && new Set(chosen).size === chosen.length) return chosen;
  throw fail(`chose [${chosen}] of ${masked} masked tokens: it must choose at least one, each once`);
}
