import { StreamDecoder, type TokenText } from "../tokenizer/token-stream.js";
import { StopMatcher } from "./stop-matcher.js";

/** Ids that became final, one by one, to text; stop strings end it. Without a tokenizer there is no text. */
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
