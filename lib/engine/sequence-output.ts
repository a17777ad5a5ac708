import type { TokenText } from "../tokenizer/token-stream.js";
import { TextOutput } from "./text-output.js";
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
