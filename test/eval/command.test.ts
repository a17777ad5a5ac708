import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Engine } from "../../lib/engine/index.js";
import { EngineGenerator, evaluate, ServerGenerator, taskNamed } from "../../lib/eval/index.js";
import { decodingSchema } from "../../lib/eval/options.js";
import { diffcoder, expectExplained, scratchFolder, smallCheckpoint, smallModel } from "../cli/support.js";
import { smallEngine, start } from "../server/support.js";
import { named, noSandbox, ownBenchmark } from "./support.js";

const folder = scratchFolder();
const FLAGS = ["--max-tokens", "12"];

describe.skipIf(noSandbox)(named("diffcoder eval", noSandbox), () => {
  it("evaluates a checkpoint, continues, and judges again", async () => {
    const data = ownBenchmark(folder.path);
    const model = await smallCheckpoint(join(folder.path, "model"));
    const out = join(folder.path, "results");
    const args = ["eval", "humaneval", "--data", data, "--output-dir", out];
    const first = await diffcoder([...args, "--model", model, ...FLAGS]);
    expect(first.stderr).toBe("");
    expect(first.stdout).toMatch(
      /^HumanEval {2}humaneval@[0-9a-f]{8}\/base {2}model\npass@1 +0\.0 % +\(95 %: 0\.0 to 0\.0\)\n/,
    );
    expect(first.stdout).toContain("0 passed, 3 failed, 0 timed out, 0 not run");
    const samples = readFileSync(join(out, "samples.jsonl"), "utf8");
    expect(samples.trim().split("\n")).toHaveLength(3);
    const again = await diffcoder([...args, "--model", model, ...FLAGS, "--json"]);
    const summary = JSON.parse(again.stdout);
    expect(summary.model).toMatchObject({ kind: "model", hash: expect.stringMatching(/^[0-9a-f]{64}$/) });
    expect(summary.decoding).toMatchObject({ maxTokens: 12 });
    expect(readFileSync(join(out, "samples.jsonl"), "utf8")).toBe(samples);
    const rescored = await diffcoder(["eval", "humaneval", "--data", data, "--rescore", out, "--json"]);
    expect(JSON.parse(rescored.stdout)).toEqual(summary);
    expectExplained(await diffcoder([...args, "--model", model]), /holds another run/);
  });

  it("checks the machine by the authors' solutions", async () => {
    const data = ownBenchmark(folder.path);
    const out = join(folder.path, "canonical");
    const { stdout, code } = await diffcoder(["eval", "humaneval", "--data", data, "--canonical", "--output-dir", out]);
    expect(stdout).toMatch(/pass@1 +100\.0 %/);
    expect(code).toBe(0);
  });

  it("explains what is wrong with its options", async () => {
    const data = ownBenchmark(folder.path);
    expectExplained(await diffcoder(["eval", "humaneval", "--data", data]), /give --model FOLDER, --server URL/);
    expectExplained(await diffcoder(["eval", "nothing", "--canonical"]), /no benchmark "nothing"; known: humaneval/);
    expectExplained(
      await diffcoder(["eval", "humaneval", "--data", data, "--canonical", "--k", "3"]),
      /pass@3 needs at least 3/,
    );
    expectExplained(
      await diffcoder(["eval", "humaneval", "--canonical"], { env: { DIFFCODER_BENCHMARKS: "" } }),
      /give --data PATH/,
    );
    expectExplained(
      await diffcoder(["eval", "humaneval", "--data", data, "--canonical"], { env: { PATH: "/nowhere" } }),
      /not run without isolation/,
    );
  });

  it("evaluates a server by OpenAI's protocol to the same answers as its model, in batches of 1 and 8", async () => {
    const data = ownBenchmark(folder.path);
    const task = taskNamed("humaneval");
    const decoding = decodingSchema.parse({ maxTokens: 12, temperature: 0.7 });
    const options = { data, maxTokens: 12, temperature: 0.7, samples: 3 };
    const texts: string[] = [];
    const keep = (name: string) => {
      const lines = readFileSync(join(folder.path, name, "samples.jsonl"), "utf8")
        .trim()
        .split("\n")
        .sort();
      texts.push(lines.map((line) => JSON.parse(line).text).join("\0"));
    };
    for (const maxNumSeqs of [1, 8]) {
      using coder = smallModel();
      await using engine = await Engine.create({ model: coder, maxNumSeqs });
      const outputDir = join(folder.path, `batch-${maxNumSeqs}`);
      await evaluate(task, new EngineGenerator(engine, decoding), { ...options, outputDir });
      keep(`batch-${maxNumSeqs}`);
    }
    await using engine = await smallEngine();
    await using server = await start(engine);
    const generator = new ServerGenerator({ url: `${server.url}/v1`, concurrency: 4 }, decoding);
    const summary = await evaluate(task, generator, { ...options, outputDir: join(folder.path, "server") });
    expect(summary.model).toMatchObject({ kind: "server", name: "tiny" });
    keep("server");
    expect(texts[0]).not.toBe("");
    expect(texts[1]).toBe(texts[0]);
    expect(texts[2]).toBe(texts[0]);
    const nobody = new ServerGenerator({ url: server.url, model: "another" }, decoding);
    await expect(evaluate(task, nobody, { ...options, outputDir: join(folder.path, "nobody") })).rejects.toMatchObject({
      code: "EVAL_MODEL",
      message: expect.stringMatching(/\/v1\/completions: HTTP 404/),
    });
  });

  it("says where a prompt has no room in the model's context", async () => {
    const data = ownBenchmark(folder.path);
    using coder = smallModel({ maxPositionEmbeddings: 16 });
    await using engine = await Engine.create({ model: coder });
    const generator = new EngineGenerator(engine, decodingSchema.parse({}));
    const summary = await evaluate(taskNamed("humaneval"), generator, { data, outputDir: join(folder.path, "small") });
    expect(summary.counts.promptTooLong).toBeGreaterThan(0);
  });
});

describe("diffcoder eval without a benchmark", () => {
  it("lists the benchmarks", async () => {
    const { stdout, code } = await diffcoder(["eval"]);
    expect(stdout).toMatch(
      /^humaneval +HumanEval\n +prompts: base, stripped, chat; file: humaneval\/HumanEval.jsonl.gz\n/,
    );
    expect(stdout).toContain("cruxeval-output");
    expect(code).toBe(0);
  });
});
