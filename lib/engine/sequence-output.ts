import { StreamDecoder, type TokenText } from "../tokenizer/token-stream.js";
import type { CommittedToken, DoneEvent, EngineEvent } from "./types.js";

export interface SequenceOutputOptions {
  /** Of the choice. */
  index: number;
  /** The generated positions. */
  firstNew: number;
  lastNew: number;
  stopTokenIds: readonly number[];
  /** Stop strings that are special tokens, by id. */
  stopTokens: readonly (readonly [id: number, text: string])[];
  /** Stop strings. */
  stop: readonly string[];
  tokenizer: TokenText | undefined;
}

/** The output of a choice: takes tokens in the order they are committed, gives them out in the text's, finds its end. */
export class SequenceOutput {
  /** Set at the end. */
  finishReason: DoneEvent["finishReason"] | undefined;
  stopReason: string | number | undefined;
  readonly #index: number;
  readonly #firstNew: number;
  readonly #lastNew: number;
  /** What ends the text, by id: the id, or the stop string that it stands for. */
  readonly #stops: ReadonlyMap<number, string | number>;
  readonly #committed: (CommittedToken | undefined)[];
  readonly #text: TextOutput;
  /** Up to here everything was given out as final. */
  #emitted: number;
  #tokens = 0;
  /** A stop string ended the text: what was held back belongs to it or follows it. */
  #isCutInText = false;

  constructor({ index, firstNew, lastNew, stopTokenIds, stopTokens, stop, tokenizer }: SequenceOutputOptions) {
    this.#index = index;
    this.#firstNew = firstNew;
    this.#lastNew = lastNew;
    this.#stops = new Map<number, string | number>([...stopTokens, ...stopTokenIds.map((id) => [id, id] as const)]);
    this.#committed = new Array(lastNew - firstNew);
    this.#text = new TextOutput(tokenizer, stop);
    this.#emitted = firstNew;
  }

  /** Tokens given out. */
  get tokens(): number {
    return this.#tokens;
  }

  isStop(id: number): boolean {
    return this.#stops.has(id);
  }

  /** Notes a token, which may still be masked again. */
  commit(token: CommittedToken): void {
    this.#committed[token.position - this.#firstNew] = token;
  }

  /** Gives out what is final before `known`; ends at a stop or when all is done. @returns `events` and what follows */
  emitTo(known: number, events: EngineEvent[]): EngineEvent[] {
    const tokens: CommittedToken[] = [];
    let text = "";
    for (; this.#emitted < known; this.#emitted++) {
      const token = this.#committed[this.#emitted - this.#firstNew] as CommittedToken;
      if (this.isStop(token.id)) {
        this.#stopAt(this.#stops.get(token.id) ?? token.id);
        break;
      }
      this.#tokens++;
      tokens.push(token);
      const piece = this.#text.push(token.id);
      text += piece.text;
      if (piece.stop !== undefined) {
        this.#stopAt(piece.stop);
        this.#isCutInText = true;
        this.#emitted++;
        break;
      }
    }
    if (this.#emitted >= this.#lastNew) this.finishReason ??= "length";
    if (tokens.length > 0) {
      events.push({ type: "text", index: this.#index, text, ids: tokens.map((token) => token.id), tokens });
    }
    return this.finishReason ? this.#flush(events) : events;
  }

  /** Ends with a stop token that is not part of the output. */
  endAt(id: number): EngineEvent[] {
    this.#stopAt(this.#stops.get(id) ?? id);
    return this.#flush([]);
  }

  /** Ends for another reason; what is final and held back is given out. */
  cut(reason: "abort" | "error"): EngineEvent[] {
    this.finishReason = reason;
    return this.#rest(this.#text.flush().text);
  }

  #stopAt(reason: string | number): void {
    this.finishReason = "stop";
    this.stopReason = reason;
  }

  #flush(events: EngineEvent[]): EngineEvent[] {
    if (this.#isCutInText) return events;
    const { text, stop } = this.#text.flush();
    if (stop !== undefined) this.#stopAt(stop);
    return [...events, ...this.#rest(text)];
  }

  #rest(text: string): EngineEvent[] {
    return text === "" ? [] : [{ type: "text", index: this.#index, text, ids: [], tokens: [] }];
  }
}

/** Converts final ids to text, one by one; stop strings end it. Without a tokenizer there is no text. */
export class TextOutput {
  readonly #decoder: StreamDecoder | undefined;
  readonly #matcher: StopMatcher;

  constructor(tokenizer: TokenText | undefined, stops: readonly string[]) {
    this.#decoder = tokenizer && new StreamDecoder(tokenizer);
    this.#matcher = new StopMatcher(stops);
  }

  /** @returns text that is certain, and the stop string that this token completes */
  push(id: number): { text: string; stop?: string } {
    if (!this.#decoder) return { text: "" };
    return this.#matcher.push(this.#decoder.push(id));
  }

  /** All that was held back: what began like a stop string, and half a character. */
  flush(): { text: string; stop?: string } {
    const last = this.#decoder?.flush() ?? "";
    const { text, stop } = this.#matcher.push(last);
    return stop === undefined ? { text: text + this.#matcher.flush() } : { text, stop };
  }
}

/**
 * Finds stop strings in a text that arrives in pieces, whatever the pieces: the first stop string to be complete
 * ends the text, the longest of those that are complete at the same character.
 */
export class StopMatcher {
  readonly #stops: readonly string[];
  readonly #longest: number;
  #held = "";

  constructor(stops: readonly string[]) {
    this.#stops = stops;
    this.#longest = stops.reduce((longest, stop) => Math.max(longest, stop.length), 0);
  }

  /**
   * @returns the text that is certain to be no part of a stop string, and the stop string, if one is complete: then
   *   the text is what came before it
   */
  push(piece: string): { text: string; stop?: string } {
    if (this.#longest === 0) return { text: piece };
    const text = this.#held + piece;
    let first: { end: number; stop: string } | undefined;
    for (const stop of this.#stops) {
      const at = text.indexOf(stop);
      if (at < 0) continue;
      const end = at + stop.length;
      if (!first || end < first.end || (end === first.end && stop.length > first.stop.length)) first = { end, stop };
    }
    if (first) {
      this.#held = "";
      return { text: text.slice(0, first.end - first.stop.length), stop: first.stop };
    }
    const keep = this.#partialAt(text);
    this.#held = text.slice(keep);
    return { text: text.slice(0, keep) };
  }

  /** The text that was held back, at the end. */
  flush(): string {
    const rest = this.#held;
    this.#held = "";
    return rest;
  }

  /** Where the longest end of the text begins that a stop string begins with; the text's length if none does. */
  #partialAt(text: string): number {
    for (let at = Math.max(0, text.length - this.#longest + 1); at < text.length; at++) {
      const tail = text.slice(at);
      if (this.#stops.some((stop) => stop.length > tail.length && stop.startsWith(tail))) return at;
    }
    return text.length;
  }
}
