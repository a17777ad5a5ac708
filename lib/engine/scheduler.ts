import type { PagePool } from "./page-pool.js";
import type { Sequence } from "./sequence.js";

/** A sequence's part of the next pass. `complete`: it reaches the goal, so its rows of logits are computed. */
export interface PlannedPart {
  sequence: Sequence;
  from: number;
  to: number;
  complete: boolean;
}

export interface SchedulerOptions {
  maxNumSeqs: number;
  maxNumBatchedTokens: number;
}

/**
 * Decides what the next pass computes. Sequences may join or leave between any two passes. Decoding sequences go first;
 * the rest of the token budget is for prefill, in order of arrival. When pages run out, the newest sequence is preempted: it
 * frees its pages and is computed again later, so the oldest always makes progress.
 */
export class Scheduler {
  readonly waiting: Sequence[] = [];
  readonly running: Sequence[] = [];
  preemptions = 0;
  readonly #pool: PagePool;
  readonly #options: SchedulerOptions;
  #order = 0;

  constructor(pool: PagePool, options: SchedulerOptions) {
    this.#pool = pool;
    this.#options = options;
  }

  /** Queues a sequence: behind those of its priority, before those of a lower one. */
  add(sequence: Sequence): void {
    sequence.order = ++this.#order;
    this.#enqueue(sequence);
  }

  #enqueue(sequence: Sequence): void {
    const at = this.waiting.findIndex((other) => comesBefore(sequence, other));
    this.waiting.splice(at < 0 ? this.waiting.length : at, 0, sequence);
  }

  /** Removes a sequence from the queue or the batch, and frees its pages. */
  remove(sequence: Sequence): void {
    this.#freePages(sequence);
    for (const list of [this.waiting, this.running]) {
      const at = list.indexOf(sequence);
      if (at >= 0) list.splice(at, 1);
    }
  }

  /** Moves sequences from the queue into the batch while there is room. @returns those that started or resumed */
  admit(): Sequence[] {
    const admitted: Sequence[] = [];
    while (this.waiting.length > 0 && this.running.length < this.#options.maxNumSeqs) {
      const at = this.waiting.findIndex((sequence) => !this.#waitsForSibling(sequence));
      if (at < 0) break;
      const sequence = this.waiting[at];
      const { pages, parent } = this.#pool.lookup(
        sequence.blockSize,
        sequence.tokens,
        sequence.sharable,
        sequence.request.settings.cacheSalt,
      );
      const needed = Math.ceil(sequence.goal / this.#pool.pageSize) - pages.length;
      // Room for its tokens and one more page for every sequence: otherwise it would soon be preempted again.
      if (this.running.length > 0 && needed + this.running.length > this.#pool.available) {
        this.#pool.release(pages);
        break;
      }
      this.waiting.splice(at, 1);
      sequence.pages = pages;
      sequence.published = pages.length;
      sequence.parent = parent;
      sequence.stored = pages.length * this.#pool.pageSize;
      this.running.push(sequence);
      admitted.push(sequence);
    }
    return admitted;
  }

  /** The next pass. Empty when nothing runs. */
  plan(): PlannedPart[] {
    const parts = new Map<Sequence, PlannedPart>();
    const byAge = [...this.running].sort((a, b) => (comesBefore(a, b) ? -1 : 1));
    for (const sequence of byAge.filter((each) => each.isDecoding)) this.#join(parts, sequence, sequence.goal);
    const decoding = [...parts.values()].reduce((sum, { from, to }) => sum + to - from, 0);
    // However many sequences decode, a new request must make progress.
    let budget = Math.max(
      this.#options.maxNumBatchedTokens - decoding,
      Math.floor(this.#options.maxNumBatchedTokens / 4),
    );
    for (const [i, sequence] of byAge.filter((each) => !each.isDecoding).entries()) {
      const to = reach(sequence, budget, i === 0);
      if (to === undefined) continue;
      const joined = this.#join(parts, sequence, to);
      if (joined) budget -= joined.to - joined.from;
    }
    return [...parts.values()];
  }

  /** Adds a sequence to the pass, if it has or can get the pages. Sequences that are preempted for it leave the pass. */
  #join(parts: Map<Sequence, PlannedPart>, sequence: Sequence, to: number): PlannedPart | undefined {
    if (!this.running.includes(sequence)) return undefined;
    const victims = this.#reserve(sequence, to);
    for (const victim of victims) parts.delete(victim);
    if (victims.includes(sequence)) return undefined;
    const part = { sequence, from: sequence.from, to, complete: to === sequence.goal };
    parts.set(sequence, part);
    return part;
  }

  /** Notes that a pass wrote keys and values up to `to`; whole pages of final tokens are offered to others. */
  advance(sequence: Sequence, to: number): void {
    sequence.stored = Math.max(sequence.stored, Math.min(to, sequence.final));
    const { pageSize } = this.#pool;
    const { cacheSalt } = sequence.request.settings;
    if (!this.#pool.canShare(sequence.blockSize)) return;
    for (let n = sequence.published; (n + 1) * pageSize <= sequence.stored; n++) {
      const page = sequence.pages[n];
      sequence.parent = this.#pool.publish(sequence.parent, sequence.tokens, n * pageSize, page, cacheSalt);
      sequence.published = n + 1;
    }
  }

  /** Allocates the pages for tokens before `to`. @returns sequences that were preempted for it, maybe this one */
  #reserve(sequence: Sequence, to: number): Sequence[] {
    const victims: Sequence[] = [];
    while (sequence.pages.length * this.#pool.pageSize < to) {
      const page = this.#pool.allocate();
      if (page !== undefined) {
        sequence.pages.push(page);
        continue;
      }
      const victim = this.running.reduce((last, other) => (comesBefore(last, other) ? other : last));
      this.#preempt(victim);
      victims.push(victim);
      if (victim === sequence) break;
    }
    return victims;
  }

  #preempt(sequence: Sequence): void {
    this.preemptions++;
    this.running.splice(this.running.indexOf(sequence), 1);
    this.#freePages(sequence);
    this.#enqueue(sequence);
  }

  #freePages(sequence: Sequence): void {
    this.#pool.release(sequence.pages);
    sequence.pages = [];
    sequence.stored = 0;
    sequence.published = 0;
  }

  /** The sequences of a request share their prompt: the others wait until the first has stored it. */
  #waitsForSibling({ request, started }: Sequence): boolean {
    if (started || request.settings.n === 1) return false;
    return this.running.some((other) => other.request === request && !other.isPrefilled);
  }
}

/**
 * How far a pass of at most `budget` tokens can take a sequence: to its goal, or to the end of a block. The oldest gets
 * its next block, however large: otherwise a block larger than the budget would wait while any other sequence decodes.
 */
function reach({ from, stored, goal, blockSize }: Sequence, budget: number, oldest: boolean): number | undefined {
  if (goal - from <= budget) return goal;
  const to = Math.floor((from + budget) / blockSize) * blockSize;
  if (to > stored) return to;
  return oldest ? Math.min(goal, (Math.floor(stored / blockSize) + 1) * blockSize) : undefined;
}

function comesBefore(a: Sequence, b: Sequence): boolean {
  const [first, second] = [a.request.settings.priority, b.request.settings.priority];
  return first !== second ? first > second : a.order < b.order;
}
