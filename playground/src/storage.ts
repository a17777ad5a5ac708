/** Web storage, or where the reader's browser forbids it, a store that lasts until the page is left. */
export class Store {
  readonly #kind: "localStorage" | "sessionStorage";
  readonly #fallback = new Map<string, string>();

  constructor(kind: "localStorage" | "sessionStorage") {
    this.#kind = kind;
  }

  get(key: string): string {
    try {
      return globalThis[this.#kind].getItem(key) ?? "";
    } catch {
      return this.#fallback.get(key) ?? "";
    }
  }

  /** @param value "" removes the key */
  set(key: string, value: string): void {
    try {
      const storage = globalThis[this.#kind];
      if (value === "") storage.removeItem(key);
      else storage.setItem(key, value);
    } catch {
      this.#fallback.set(key, value);
    }
  }
}
