/** Page 0 is never allocated: writes whose result is not needed go there. */
export const SCRATCH_PAGE = 0;

/** A page whose tokens are final, in the prefix cache. */
interface CachedPage {
  readonly key: string;
  readonly id: number;
  readonly page: number;
}

/** The cached part of a prompt. The pages are retained for the caller. */
export interface PrefixMatch {
  pages: number[];
  /** The parent of the next page to {@link PagePool.publish}. */
  parent: PrefixNode;
}

/** A place in the tree of cached prefixes: a root per block size, then a node per page. */
export type PrefixNode = number;

/**
 * Tracks which pages of the KV cache are free, in use (reference-counted, because prefixes are shared) or kept for the
 * prefix cache. Host only.
 *
 * The prefix cache is a tree of whole pages of final tokens. A page's key is its salt, its parent and its tokens, so
 * equal keys are equal prefixes, without hashes that could collide. The roots are block sizes: under block-causal attention
 * keys and values depend on where blocks end. Unused pages stay until a new page is needed; then the least recently
 * used one is evicted.
 */
export class PagePool {
  readonly total: number;
  readonly pageSize: number;
  readonly #caching: boolean;
  readonly #references: Int32Array;
  readonly #free: number[] = [];
  readonly #nodes = new Map<string, CachedPage>();
  readonly #nodeOf: (CachedPage | undefined)[];
  /** Cached pages without references, the least recently used first. */
  readonly #unused = new Set<number>();
  readonly #roots = new Map<number, PrefixNode>();
  #nextNode = 1;

  /** @param pages pages that may be allocated, page 0 not counted */
  constructor({ pages, pageSize, prefixCache }: { pages: number; pageSize: number; prefixCache: boolean }) {
    this.total = pages;
    this.pageSize = pageSize;
    this.#caching = prefixCache;
    this.#references = new Int32Array(pages + 1);
    this.#nodeOf = new Array<CachedPage | undefined>(pages + 1).fill(undefined);
    for (let page = pages; page > SCRATCH_PAGE; page--) this.#free.push(page);
  }

  /** Pages that can be allocated at once. */
  get available(): number {
    return this.#free.length + this.#unused.size;
  }

  get cached(): number {
    return this.#nodes.size;
  }

  get used(): number {
    return this.total - this.available;
  }

  get free(): number {
    return this.#free.length;
  }

  /** A page with one reference, undefined when all are in use. */
  allocate(): number | undefined {
    let page = this.#free.pop();
    if (page === undefined) {
      const oldest = this.#unused.values().next();
      if (oldest.done) return undefined;
      page = oldest.value;
      this.#forget(page);
    }
    this.#references[page] = 1;
    return page;
  }

  retain(page: number): void {
    if (this.#references[page]++ === 0) this.#unused.delete(page);
  }

  /** Releases pages. Later ones are evicted first: a prefix outlives what follows it. */
  release(pages: readonly number[]): void {
    for (let i = pages.length - 1; i >= 0; i--) {
      const page = pages[i];
      if (this.#references[page] <= 0) throw new Error(`page ${page} is released more often than retained`);
      if (--this.#references[page] > 0) continue;
      if (this.#nodeOf[page]) this.#unused.add(page);
      else this.#free.push(page);
    }
  }

  /** Whether sequences of a block size can share pages: then pages end where blocks end. */
  canShare(blockSize: number): boolean {
    return this.#caching && this.pageSize % blockSize === 0;
  }

  /**
   * The longest cached prefix of `tokens` in whole pages that end at or before `limit`.
   *
   * @param salt only pages that were published with the same salt are found
   */
  lookup(blockSize: number, tokens: Int32Array, limit: number, salt = ""): PrefixMatch {
    let parent = this.root(blockSize);
    const pages: number[] = [];
    if (!this.canShare(blockSize)) return { pages, parent };
    for (let end = this.pageSize; end <= limit; end += this.pageSize) {
      const node = this.#nodes.get(keyOf(salt, parent, tokens, end - this.pageSize, end));
      if (!node) break;
      this.retain(node.page);
      pages.push(node.page);
      parent = node.id;
    }
    return { pages, parent };
  }

  root(blockSize: number): PrefixNode {
    let root = this.#roots.get(blockSize);
    if (root === undefined) {
      root = this.#nextNode++;
      this.#roots.set(blockSize, root);
    }
    return root;
  }

  /**
   * Adds a page to the prefix cache: the tokens from .. from + pageSize are final and their keys and values written.
   * An equal page may be there already; then this one stays private.
   *
   * @param salt as of {@link lookup}
   * @returns the page's place in the tree, the parent of the next page
   */
  publish(parent: PrefixNode, tokens: Int32Array, from: number, page: number, salt = ""): PrefixNode {
    const key = keyOf(salt, parent, tokens, from, from + this.pageSize);
    const known = this.#nodes.get(key);
    if (known) return known.id;
    const node = { key, id: this.#nextNode++, page };
    this.#nodes.set(key, node);
    this.#nodeOf[page] = node;
    return node.id;
  }

  #forget(page: number): void {
    this.#unused.delete(page);
    const node = this.#nodeOf[page];
    if (node) this.#nodes.delete(node.key);
    this.#nodeOf[page] = undefined;
  }
}

function keyOf(salt: string, parent: PrefixNode, tokens: Int32Array, from: number, to: number): string {
  return `${parent}:${tokens.subarray(from, to).join()}:${salt}`;
}
