import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { PagePool } from "../../lib/engine/page-pool.js";

/** A user of the pool that keeps its own account of it. */
class Holder {
  pages: number[] = [];
  tokens: Int32Array;
  parent: number;
  published: number;

  constructor(pool: PagePool, blockSize: number, tokens: Int32Array) {
    this.tokens = tokens;
    const found = pool.lookup(blockSize, tokens, tokens.length);
    this.pages = found.pages;
    this.parent = found.parent;
    this.published = found.pages.length;
  }
}

describe("the page pool", () => {
  it("keeps its books under any sequence of actions", () => {
    const action = fc.record({
      kind: fc.constantFrom("open", "open", "grow", "grow", "publish", "close"),
      which: fc.nat(7),
      blockSize: fc.constantFrom(1, 2, 4),
      tokens: fc.array(fc.integer({ min: 0, max: 1 }), { minLength: 4, maxLength: 24 }),
    });
    fc.assert(
      fc.property(fc.array(action, { maxLength: 120 }), fc.integer({ min: 1, max: 12 }), (actions, pages) => {
        const pool = new PagePool({ pages, pageSize: 4, prefixCache: true });
        const holders: Holder[] = [];
        /** What was in a page when it was offered, by page: must hold for whoever gets it by a prefix. */
        const content = new Map<number, string>();
        for (const { kind, which, blockSize, tokens } of actions) {
          const holder = holders[which % Math.max(1, holders.length)];
          if (kind === "open") {
            const made = new Holder(pool, blockSize, Int32Array.from(tokens));
            made.pages.forEach((page, n) => {
              expect(content.get(page)).toBe(`${blockSize}:${tokens.slice(0, (n + 1) * 4).join()}`);
            });
            (made as Holder & { blockSize: number }).blockSize = blockSize;
            holders.push(made);
          } else if (!holder) continue;
          else if (kind === "grow") {
            if (holder.pages.length * 4 >= holder.tokens.length) continue;
            const page = pool.allocate();
            const inUse = new Set(holders.flatMap((other) => other.pages));
            if (page === undefined) expect(inUse.size).toBe(pages);
            else {
              expect(inUse.has(page)).toBe(false);
              expect(page).toBeGreaterThan(0);
              content.delete(page);
              holder.pages.push(page);
            }
          } else if (kind === "publish") {
            const n = holder.published;
            if (n >= holder.pages.length || (n + 1) * 4 > holder.tokens.length) continue;
            const { blockSize: size } = holder as Holder & { blockSize: number };
            const key = `${size}:${holder.tokens.subarray(0, (n + 1) * 4).join()}`;
            holder.parent = pool.publish(holder.parent, holder.tokens, n * 4, holder.pages[n]);
            content.set(holder.pages[n], key);
            holder.published++;
          } else {
            pool.release(holder.pages);
            holders.splice(holders.indexOf(holder), 1);
          }
          const inUse = new Set(holders.flatMap((other) => other.pages));
          expect(pool.used).toBe(inUse.size);
          expect(pool.available).toBe(pages - inUse.size);
        }
        for (const holder of holders) pool.release(holder.pages);
        expect(pool.available).toBe(pages);
        // All can be had, and then nothing is left of the cache.
        expect(new Set(Array.from({ length: pages }, () => pool.allocate()))).not.toContain(undefined);
        expect([pool.free, pool.cached, pool.allocate()]).toEqual([0, 0, undefined]);
      }),
      { numRuns: 300 },
    );
  });

  it("gives a prefix only to the block size it was stored with", () => {
    const pool = new PagePool({ pages: 4, pageSize: 4, prefixCache: true });
    const tokens = Int32Array.of(1, 2, 3, 4, 5, 6, 7, 8);
    const page = pool.allocate() as number;
    pool.publish(pool.root(4), tokens, 0, page);
    expect(pool.lookup(4, tokens, 8).pages).toEqual([page]);
    expect(pool.lookup(2, tokens, 8).pages).toEqual([]);
    expect(pool.lookup(4, tokens, 3).pages).toEqual([]);
    expect(pool.lookup(3, tokens, 8).pages).toEqual([]);
  });

  it("drops what was longest unused first, and of a prefix its end", () => {
    const pool = new PagePool({ pages: 3, pageSize: 2, prefixCache: true });
    const tokens = Int32Array.of(1, 2, 3, 4, 5, 6);
    const pages = [0, 1, 2].map(() => pool.allocate() as number);
    let parent = pool.root(2);
    for (const [n, page] of pages.entries()) parent = pool.publish(parent, tokens, 2 * n, page);
    pool.release(pages);
    pool.allocate();
    const found = pool.lookup(2, tokens, 6);
    expect(found.pages).toEqual(pages.slice(0, 2));
    pool.release(found.pages);
  });

  it("refuses to release a page twice", () => {
    const pool = new PagePool({ pages: 1, pageSize: 4, prefixCache: false });
    const page = pool.allocate() as number;
    pool.release([page]);
    expect(() => pool.release([page])).toThrow(/more often/);
  });
});
