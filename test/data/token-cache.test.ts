import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { prepareData } from "../../lib/data/index.js";
import { parseRecipe } from "../../lib/train/index.js";
import { rejectionOf, temporaryFolder, tokenizer, writeTree } from "./helpers.js";

const code = writeTree(temporaryFolder(), { "a.py": "x = 1\n".repeat(40), "b/c.py": "y = 2\n".repeat(40) });
const options = { paths: [code], seqLen: 8 };

describe("where tokens are kept", () => {
  const before = process.env.DIFFCODER_CACHE;
  afterEach(() => {
    if (before === undefined) delete process.env.DIFFCODER_CACHE;
    else process.env.DIFFCODER_CACHE = before;
  });

  it("is the option's folder, else the environment's", async () => {
    const [chosen, named] = [temporaryFolder(), temporaryFolder()];
    process.env.DIFFCODER_CACHE = named;
    const { store } = await prepareData(options, tokenizer);
    expect(store.folder.startsWith(named)).toBe(true);
    expect(readdirSync(named)).toHaveLength(1);
    expect((await prepareData({ ...options, cache: chosen }, tokenizer)).store.folder.startsWith(chosen)).toBe(true);
    expect((await prepareData(options, tokenizer)).store.fromCache).toBe(true);
    expect(readdirSync(named)).toHaveLength(1);
  });

  // Not even root can make a folder in /proc.
  it.skipIf(!existsSync("/proc/self"))("is a temporary one, with a warning, where nothing can be written", async () => {
    const warned = new Promise<Error & { code?: string }>((done) => process.once("warning", done));
    const { store, train } = await prepareData({ ...options, cache: "/proc/self/cache" }, tokenizer);
    expect(store.folder.startsWith(tmpdir())).toBe(true);
    expect(train.numSamples).toBeGreaterThan(0);
    const warning = await warned;
    expect(warning).toMatchObject({ name: "DataWarning", code: "DATA_CACHE" });
    expect(warning.message).toMatch(/^cannot write the token cache \/proc\/self\/cache \(\w+\), using .*--cache-dir/);
  });

  it("is no file", async () => {
    const file = join(temporaryFolder(), "file");
    writeFileSync(file, "");
    mkdirSync(join(code, "more"), { recursive: true });
    expect(await rejectionOf(prepareData({ ...options, cache: file }, tokenizer))).toMatch(/^DATA_STORE cannot write/);
  });

  it("is a recipe's choice", () => {
    const text =
      "model: tiny\ndata: { paths: [.], seqLen: 8, cache: x }\nstages: [{ type: autoregressive, name: a, steps: 1, lr: 1e-3 }]";
    expect(parseRecipe(text, "a.yaml").data).toMatchObject({ cache: "x" });
  });
});
