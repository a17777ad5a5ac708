/** Something that changes many times a second. Readers are told once per animation frame. */
export class Live {
  readonly #readers = new Set<() => void>();
  #frame = 0;

  subscribe(reader: () => void): () => void {
    this.#readers.add(reader);
    return () => this.#readers.delete(reader);
  }

  changed(): void {
    if (this.#frame !== 0) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      for (const reader of this.#readers) reader();
    });
  }
}
