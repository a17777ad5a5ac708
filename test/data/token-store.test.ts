import { existsSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  Corpus,
  type FimOptions,
  splitForFim,
  TokenFile,
  TokenStore,
  type TokenStoreOptions,
} from "../../lib/data/index.js";
import { TokenFileWriter } from "../../lib/data/token-file.js";
import { Tokenizer } from "../../lib/tokenizer/tokenizer.js";
import { anyText, rejectionOf, temporaryFolder, thrownBy, tokenizer, writeTree } from "./helpers.js";

const root = temporaryFolder();
const source = writeTree(join(root, "source"), {
  "a.py": "def f(x):\n    return '<[MASK_TOKEN]> 😀'\n",
  "b.js": `${"const value = 12345;\n".repeat(100)}`,
  "c/d.ts": "export type T = { readonly x: number };\n".repeat(20),
});
let stores = 0;
const prepare = (options: Partial<TokenStoreOptions> = {}) =>
  TokenStore.prepare({
    corpus: new Corpus({ sources: [{ path: source }] }),
    tokenizer,
    folder: join(root, `store-${stores++}`),
    ...options,
  });
const plain = (text: string) => tokenizer.encode(text, { parseSpecialTokens: false });

describe("TokenStore", () => {
  it("holds the documents' ids in order, each closed by eos", async () => {
    const store = await prepare();
    const { train } = store;
    expect(store).toMatchObject({ fromCache: false, rebuiltBecause: undefined });
    expect(train.numDocuments).toBe(3);
    const texts = ["a.py", "b.js", "c/d.ts"].map((name) => readFileSync(join(source, name), "utf8"));
    for (const [i, text] of texts.entries()) {
      const ids = [...plain(text), 2];
      expect([...train.document(i)]).toEqual(ids);
      expect([...train.read(train.starts[i], train.starts[i + 1])]).toEqual(ids);
      expect(train.documentBytes[i]).toBe(Buffer.byteLength(text));
      for (const at of [train.starts[i], train.starts[i + 1] - 1]) expect(train.documentAt(at)).toBe(i);
    }
    expect(train.numTokens).toBe(train.starts[3]);
    expect(train.numBytes).toBe(texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0));
    expect([0, 1, 2].map((i) => train.documentName(i))).toEqual(["a.py", "b.js", "c/d.ts"]);
    // A mask token written in a source file is text: the model must not see real ones.
    expect([...train.document(0)]).not.toContain(tokenizer.maskId);
    expect(store.heldOut.numTokens).toBe(0);
    expect(store.summary.documents).toBe(3);
    expect(thrownBy(() => train.read(0, train.numTokens + 1))).toMatch(/^DATA_RANGE/);
    expect(thrownBy(() => train.document(3))).toMatch(/^DATA_RANGE/);
  });

  it("is opened again while nothing changed, and made anew when anything did", async () => {
    const folder = join(root, "again");
    const first = await prepare({ folder });
    const again = await prepare({ folder });
    expect(again).toMatchObject({ fromCache: true, summary: first.summary });
    expect([...again.train.read(0, again.train.numTokens)]).toEqual([...first.train.read(0, first.train.numTokens)]);
    expect(again.train.hash).toBe(first.train.hash);

    const choice = await prepare({ folder, choices: { validationSplit: 0.1 } });
    expect(choice).toMatchObject({
      fromCache: false,
      rebuiltBecause: expect.stringMatching(/stale: its options changed/),
    });
    const copy = join(root, "tokenizer");
    tokenizer.save(copy);
    const json = JSON.parse(readFileSync(join(copy, "tokenizer.json"), "utf8"));
    json.model.merges.pop();
    writeFileSync(join(copy, "tokenizer.json"), JSON.stringify(json));
    const other = await prepare({ folder, tokenizer: Tokenizer.fromPretrained(copy) });
    expect(other.rebuiltBecause).toMatch(/stale: its tokenizer changed/);

    const moving = writeTree(join(root, "moving"), { "a.py": "x = 1\n" });
    const corpus = () => new Corpus({ sources: [{ path: moving }] });
    await prepare({ folder });
    expect((await prepare({ folder, corpus: corpus() })).rebuiltBecause).toMatch(/stale: its sources changed/);
    expect((await prepare({ folder, corpus: corpus() })).fromCache).toBe(true);
    writeTree(moving, { "b.py": "y = 2\n" });
    const grown = await prepare({ folder, corpus: corpus() });
    expect(grown).toMatchObject({ fromCache: false, train: { numDocuments: 2 } });
  });

  it.each([
    [
      "a cut token file",
      (folder: string) => truncateSync(join(folder, "train.tokens"), 100),
      /train\.tokens is damaged: it has 100/,
    ],
    [
      "a changed byte",
      (folder: string) => flip(join(folder, "train.tokens"), 33),
      /train\.tokens is damaged: its content/,
    ],
    ["a changed table", (folder: string) => flip(join(folder, "train.documents"), 4), /train\.documents is damaged/],
    [
      "a cut header",
      (folder: string) => truncateSync(join(folder, "header.json"), 50),
      /header\.json is missing, damaged/,
    ],
    [
      "a header of another version",
      (folder: string) => writeFileSync(join(folder, "header.json"), '{"format":0}'),
      /version/,
    ],
  ])("mends %s", async (_, damage, why) => {
    const folder = join(root, `damaged-${stores++}`);
    const first = await prepare({ folder });
    damage(folder);
    const mended = await prepare({ folder });
    expect(mended).toMatchObject({ fromCache: false, rebuiltBecause: expect.stringMatching(why) });
    expect(mended.train.hash).toBe(first.train.hash);
    expect((await prepare({ folder })).fromCache).toBe(true);
  });

  it("leaves nothing behind when it is stopped or fails", async () => {
    const parent = join(root, "stopped");
    const folder = join(parent, "store");
    const big = writeTree(join(root, "big"), {});
    for (let i = 0; i < 40; i++) writeTree(big, { [`f${i}.py`]: `x${i} = '${i}'\n`.repeat(8000) });
    const stop = new AbortController();
    const corpus = new Corpus({ sources: [{ path: big }] });
    const stopped = prepare({ corpus, folder, signal: stop.signal, onProgress: () => stop.abort(new Error("enough")) });
    expect(await rejectionOf(stopped)).toMatch(/enough/);
    expect(readdirSync(parent)).toEqual([]);
    const empty = new Corpus({ sources: [{ path: writeTree(join(root, "nothing"), { "a.py": "" }) }] });
    expect(await rejectionOf(prepare({ corpus: empty, folder }))).toMatch(/^DATA_EMPTY/);
    expect(readdirSync(parent)).toEqual([]);
    const blocked = join(source, "a.py", "store");
    expect(await rejectionOf(prepare({ folder: blocked }))).toMatch(/^DATA_STORE cannot write the token store/);
  });

  it("may be made by several at once", async () => {
    const folder = join(root, "race", "store");
    const made = await Promise.all(Array.from({ length: 4 }, () => prepare({ folder })));
    expect(new Set(made.map((one) => one.train.hash)).size).toBe(1);
    expect(readdirSync(join(root, "race"))).toEqual(["store"]);
    expect(existsSync(join(folder, "header.json"))).toBe(true);
  });

  it("puts held-out documents apart and tells how far it is", async () => {
    const seen: number[] = [];
    const corpus = new Corpus({ sources: [{ path: source }], validationSplit: 0.2 });
    const store = await prepare({ corpus, onProgress: ({ documents }) => seen.push(documents) });
    expect(store.heldOut.numDocuments).toBeGreaterThan(0);
    expect(store.train.numDocuments + store.heldOut.numDocuments).toBe(3);
    expect(seen.at(-1)).toBe(3);
  });
});

describe("TokenFile", () => {
  it.each([
    ["two bytes", 4096],
    ["four bytes", 155_136],
  ])("gives back what was written, from memory and from disk (%s)", (_, numIds) => {
    const documents = fc.array(fc.array(fc.nat(numIds - 1), { minLength: 1, maxLength: 40 }), {
      minLength: 1,
      maxLength: 20,
    });
    fc.assert(
      fc.property(documents, (given) => {
        const writer = new TokenFileWriter(root, "raw", numIds);
        for (const [i, ids] of given.entries()) writer.append(ids, i, `document ${i}`);
        const header = writer.finish();
        expect(header.width).toBe(numIds > 65536 ? 4 : 2);
        for (const memoryBytes of [undefined, 0]) {
          const file = new TokenFile(root, "raw", header, memoryBytes);
          expect(given.map((_ids, i) => [...file.document(i)])).toEqual(given);
          expect([...file.read(0, file.numTokens)]).toEqual(given.flat());
          file.close();
        }
      }),
      { numRuns: 12 },
    );
  });

  it("notices a cut file that is too large for memory", () => {
    const writer = new TokenFileWriter(root, "large", 100);
    writer.append([1, 2, 3, 4], 4, "one");
    const header = writer.finish();
    truncateSync(join(root, "large.tokens"), 6);
    expect(thrownBy(() => new TokenFile(root, "large", header, 0))).toMatch(/^DATA_STORE .*6 bytes instead of 8/);
  });
});

describe("fill in the middle", () => {
  it("cuts any text in three that make it up, without cutting a character", () => {
    fc.assert(
      fc.property(anyText(50), fc.nat(), fc.nat(), (given, seed, index) => {
        const parts = splitForFim(given, 1, seed, index);
        expect(parts && parts.prefix + parts.middle + parts.suffix).toBe(given);
        for (const part of Object.values(parts ?? {})) expect(part).not.toMatch(/\p{Surrogate}/u);
        expect(splitForFim(given, 1, seed, index)).toEqual(parts);
      }),
    );
  });

  it("takes the share asked for, and cuts uniformly", () => {
    const text = "0123456789".repeat(10);
    const cut = Array.from({ length: 4000 }, (_, i) => splitForFim(text, 0.3, 5, i)).filter(
      (parts) => parts !== undefined,
    );
    expect(Math.abs(cut.length / 4000 - 0.3)).toBeLessThan(0.03);
    const mean = (pick: (parts: (typeof cut)[number]) => string) =>
      cut.reduce((sum, parts) => sum + pick(parts).length, 0) / cut.length / text.length;
    for (const part of ["prefix", "middle", "suffix"] as const) {
      expect(Math.abs(mean((parts) => parts[part]) - 1 / 3)).toBeLessThan(0.04);
    }
    expect(splitForFim(text, 0, 5, 0)).toBeUndefined();
  });

  it.each(["spm", "psm"] as const)("is written as %s", async (format) => {
    const fim: FimOptions = { rate: 1, format };
    const { train } = await prepare({ fim, seed: 3 });
    const [prefix, suffix, middle] = [7, 6, 8];
    for (let i = 0; i < 3; i++) {
      const ids = [...train.document(i)];
      expect(ids.filter((id) => id >= 6 && id <= 8)).toEqual(
        format === "spm" ? [suffix, prefix, middle] : [prefix, suffix, middle],
      );
      const parts: Record<number, number[]> = {};
      let at = 0;
      for (const id of ids.slice(0, -1)) {
        if (id >= 6 && id <= 8) {
          at = id;
          parts[id] = [];
        } else parts[at].push(id);
      }
      const text = [prefix, middle, suffix].map((id) => tokenizer.decode(parts[id])).join("");
      expect(text).toBe(readFileSync(join(source, train.documentName(i) as string), "utf8"));
      expect(ids.at(-1)).toBe(2);
    }
  });

  it("needs the tokens for it", async () => {
    const gpt2 = Tokenizer.fromPretrained(join(import.meta.dirname, "../fixtures/tokenizer/gpt2"));
    const failed = await rejectionOf(prepare({ tokenizer: gpt2, fim: { rate: 0.5, format: "spm" } }));
    expect(failed).toMatch(/^DATA_OPTIONS fim\.rate is 0\.5, but the tokenizer .* has no FIM tokens/);
  });
});

function flip(path: string, at: number): void {
  const bytes = readFileSync(path);
  bytes[at] ^= 1;
  writeFileSync(path, bytes);
}
