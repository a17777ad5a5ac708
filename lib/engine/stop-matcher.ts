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
