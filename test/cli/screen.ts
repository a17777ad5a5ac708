/** A terminal's screen, as far as our programs use one: it turns what they write into what a person sees. */
export class Screen {
  /** Lines that left the screen at its top. */
  readonly scrolledOut: string[] = [];
  cursorVisible = true;
  /** Every control sequence that is not known here: a program has no business with those. */
  readonly unknown: string[] = [];

  readonly #columns: number;
  readonly #rows: number;
  #cells: string[][] = [[]];
  #row = 0;
  #column = 0;
  #wraps = true;

  constructor(columns: number, rows: number) {
    this.#columns = columns;
    this.#rows = rows;
  }

  /** The lines on the screen without white space at their ends, up to the last one that holds something. */
  lines(): string[] {
    const lines = this.#cells.map((cells) =>
      Array.from(cells, (cell) => cell ?? " ")
        .join("")
        .trimEnd(),
    );
    while (lines.at(-1) === "") lines.pop();
    return lines;
  }

  write(text: string): void {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control sequences are what is read here
    for (const [part] of text.matchAll(/\x1b\[\??[0-9;]*[A-Za-z]|\x1b.|[\s\S]/gu)) {
      if (part.startsWith("\x1b")) this.#control(part);
      else if (part === "\r") this.#column = 0;
      else if (part === "\n") this.#lineFeed();
      else if (part === "\b") this.#column = Math.max(0, this.#column - 1);
      else this.#put(part);
    }
  }

  #put(character: string): void {
    if (this.#column >= this.#columns) {
      if (this.#wraps) {
        this.#column = 0;
        this.#lineFeed();
      } else this.#column = this.#columns - 1; // what does not fit is written over the last column
    }
    this.#cells[this.#row][this.#column++] = character;
  }

  #lineFeed(): void {
    this.#row++;
    this.#cells[this.#row] ??= [];
    if (this.#row < this.#rows) return;
    const [first, ...rest] = this.#cells;
    this.scrolledOut.push(
      Array.from(first, (cell) => cell ?? " ")
        .join("")
        .trimEnd(),
    );
    this.#cells = rest;
    this.#row--;
  }

  #control(sequence: string): void {
    const numbers = sequence.slice(2, -1);
    const kind = sequence.at(-1);
    const count = Number(numbers) || 1;
    const line = this.#cells[this.#row];
    if (kind === "m") return; // colours
    if (kind === "A") this.#row = Math.max(0, this.#row - count);
    else if (kind === "B") this.#row = Math.min(this.#rows - 1, this.#row + count);
    else if (kind === "G") this.#column = count - 1;
    else if (kind === "J" && !numbers) {
      line.length = Math.min(line.length, this.#column);
      this.#cells.length = this.#row + 1;
    } else if (kind === "K" && (numbers === "" || numbers === "0")) line.length = Math.min(line.length, this.#column);
    else if (kind === "K") this.#cells[this.#row] = [];
    else if (numbers === "?25") this.cursorVisible = kind === "h";
    else if (numbers === "?7") this.#wraps = kind === "h";
    else this.unknown.push(sequence);
    while (this.#cells.length <= this.#row) this.#cells.push([]);
  }
}
