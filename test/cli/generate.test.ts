import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { diffcoder, expectExplained, type RunOptions, scratchFolder, smallCheckpoint } from "./support.js";

const folder = scratchFolder();
let model: string;
beforeAll(async () => {
  model = await smallCheckpoint(join(folder.path, "model"));
});

const generate = (args: string[], options?: RunOptions) => diffcoder(["generate", model, ...args], options);

async function generated(args: string[], options?: RunOptions) {
  const { code, stdout, stderr } = await generate([...args, "--json"], options);
  expect(code, stderr).toBe(0);
  return JSON.parse(stdout) as {
    text: string;
    tokens: number;
    forwards: number;
    seconds: number;
    finish_reason: string;
  };
}

describe("generate", () => {
  it("prints prompt and completion on standard output, and the counts beside it", async () => {
    const { code, stdout, stderr } = await generate(["import os\n", "-n", "8"]);
    expect(code, stderr).toBe(0);
    expect(stdout).toMatch(/^import os\n[\s\S]+\n$/);
    expect(stderr).toMatch(/^8 tokens, 8 forwards \(1\.00 tokens each\), [\d.]+ tokens\/s, ended by length\n$/);
    const { text } = await generated(["import os\n", "-n", "8"]);
    expect(stdout).toBe(`import os\n${text}\n`);
  });

  it("gives one JSON object", async () => {
    const result = await generated(["x", "-n", "5"]);
    expect(Object.keys(result)).toEqual(["text", "tokens", "forwards", "seconds", "finish_reason"]);
    expect(result).toMatchObject({ tokens: 5, forwards: 5, finish_reason: "length" });
  });

  it("takes the prompt as an argument, from a file or from a pipe, to the last byte", async () => {
    const prompt = "# höhe\nexport const x =\t";
    const file = join(folder.path, "prompt.txt");
    writeFileSync(file, prompt);
    const texts = [
      await generated([prompt, "-n", "6"]),
      await generated(["--file", file, "-n", "6"]),
      await generated(["-n", "6"], { input: prompt }),
    ].map(({ text }) => text);
    expect(new Set(texts).size).toBe(1);
  });

  it("repeats itself with a seed, and with another seed says something else", async () => {
    const sample = (seed: string) => generated(["x = ", "-n", "12", "-t", "1", "--top-k", "500", "--seed", seed]);
    const [a, b, c] = [await sample("1"), await sample("1"), await sample("2")];
    expect(b.text).toBe(a.text);
    expect(c.text).not.toBe(a.text);
  });

  it("commits by a number of passes or by a threshold", async () => {
    expect((await generated(["abc", "-n", "8", "--steps", "1", "-b", "8"])).forwards).toBeLessThanOrEqual(2);
    expect((await generated(["abc", "-n", "8", "--threshold", "0"])).forwards).toBeLessThan(8);
    expect((await generated(["abc", "-n", "8", "--threshold", "1"])).forwards).toBe(8);
  });

  it("decodes token by token, and answers in the chat template", async () => {
    expect(await generated(["def f(", "-n", "4", "--autoregressive"])).toMatchObject({ tokens: 4, forwards: 4 });
    const { code, stdout, stderr } = await generate(["Sort a list.", "-n", "4", "--chat"]);
    expect(code, stderr).toBe(0);
    expect(stdout).toContain("user\nSort a list.");
    expect(stdout).toContain("assistant\n");
  });

  it.each([
    [["x", "-n", "0"], /'-n, --max-tokens <n>' argument '0' is invalid\. expected an integer from 1/],
    [["x", "-n", "1e9"], /exceed the model's context of 512/],
    [["x", "--threshold", "2"], /expected a number from 0 to 1/],
    [["x", "--top-p", "1.1"], /expected a number from 0 to 1/],
    [["x", "--steps", "2", "--threshold", "0.5"], /cannot be used with option/],
    [["x", "--autoregressive", "--block-size", "8"], /cannot be used with option '--autoregressive'/],
    [["x", "--dtype", "float8"], /Allowed choices are auto, float32, bfloat16, float16/],
    [["x", "--device", "cuda:7"], /cuda/i],
    [["x", "--file", "y"], /give a prompt or --file, not both/],
    [["--file", "nowhere.txt"], /nowhere\.txt/],
  ])("explains %j", async (args, message) => {
    expectExplained(await generate(args), message);
  });

  it("explains a checkpoint that is none, torn or of another shape", async () => {
    expectExplained(await diffcoder(["generate", join(folder.path, "nowhere"), "x"]), /nowhere does not exist/);
    expectExplained(await diffcoder(["generate", folder.path, "x"]), /config\.json/);
    const torn = join(folder.path, "torn");
    cpSync(model, torn, { recursive: true });
    const weights = readFileSync(join(model, "model.safetensors"));
    writeFileSync(join(torn, "model.safetensors"), weights.subarray(0, weights.length - 100));
    expectExplained(await diffcoder(["generate", torn, "x"]), /model\.safetensors cannot be read/);
    cpSync(join(model, "model.safetensors"), join(torn, "model.safetensors"));
    const config = JSON.parse(readFileSync(join(model, "config.json"), "utf8"));
    writeFileSync(join(torn, "config.json"), JSON.stringify({ ...config, hidden_size: 32, head_dim: 32 }));
    expectExplained(await diffcoder(["generate", torn, "x"]), /is \[4096,64\], the config requires \[4096,32\]/);
    writeFileSync(join(torn, "config.json"), JSON.stringify({ ...config, architectures: ["MambaForCausalLM"] }));
    expectExplained(await diffcoder(["generate", torn, "x"]), /MambaForCausalLM.*allowed: 'LlamaForCausalLM'/);
    cpSync(join(model, "config.json"), join(torn, "config.json"));
    rmSync(join(torn, "tokenizer.json"));
    expectExplained(await diffcoder(["generate", torn, "x"]), /torn has no tokenizer\.json/);
  });
});
