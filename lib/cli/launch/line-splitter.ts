/** A line that is longer is cut: memory must not grow with what a program prints. */
const LONGEST = 64 * 1024;

/** What a stream shows. A frame is a line that the next one replaces, such as a progress bar. */
export interface Piece {
  text: string;
  isFrame: boolean;
}

/**
 * Cuts a stream into lines. A carriage return ends a frame, a line feed a line; "\r\n" is a line feed. Bytes are kept as
 * they are, one character each (latin1): they may be UTF-8, cut anywhere, or no text at all.
 */
export class LineSplitter {
  #text = "";
  /** The frame that stands there now, which a line feed makes a line. */
  #frame = "";

  push(chunk: Buffer): Piece[] {
    const pieces: Piece[] = [];
    const text = this.#text + chunk.toString("latin1");
    let start = 0;
    for (const { index, 0: end } of text.matchAll(/[\r\n]/g)) {
      this.#cut(text.slice(start, index), pieces);
      if (end === "\n") {
        pieces.push({ text: this.#text === "" ? this.#frame : this.#text, isFrame: false });
        this.#frame = "";
      } else if (this.#text !== "") {
        this.#frame = this.#text;
        pieces.push({ text: this.#frame, isFrame: true });
      }
      this.#text = "";
      start = index + 1;
    }
    this.#cut(text.slice(start), pieces);
    return pieces;
  }

  /** What is left when the stream ends. */
  end(): Piece[] {
    const text = this.#text === "" ? this.#frame : this.#text;
    this.#text = "";
    this.#frame = "";
    return text === "" ? [] : [{ text, isFrame: false }];
  }

  #cut(text: string, pieces: Piece[]): void {
    let start = 0;
    for (; text.length - start > LONGEST; start += LONGEST) {
      pieces.push({ text: text.slice(start, start + LONGEST), isFrame: false });
    }
    this.#text = text.slice(start);
  }
}
