import { appendFileSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  CanonicalGenerator,
  cutAtStop,
  type EvalProgress,
  evaluate,
  fencedCode,
  loadTask,
  rescore,
  type Task,
  taskNamed,
} from "../../lib/eval/index.js";
import { FunctionGenerator, named, noSandbox, ownBenchmark, RECORDS, scratch } from "./support.js";

const folder = scratch();
const data = ownBenchmark(folder);
const humaneval = taskNamed("humaneval");
const solution = (id: string) => RECORDS.find(({ task_id }) => task_id === id)?.canonical_solution ?? "";
const out = (name: string) => join(folder, name);
const read = (name: string, file: string) => readFileSync(join(out(name), file), "utf8");

describe.skipIf(noSandbox)(named("a run", noSandbox), () => {
  it("scores the authors' solutions 100 % through the whole path, with every prompt", async () => {
    for (const prompt of ["base", "stripped", "chat"]) {
      const summary = await evaluate(humaneval, new CanonicalGenerator(), {
        data,
        prompt,
        outputDir: out(`all-${prompt}`),
      });
      expect(summary.passAt).toEqual({ 1: { value: 1, low: 1, high: 1 } });
      expect(summary.counts).toMatchObject({ passed: 3, failed: 0, timeout: 0, notRun: 0 });
    }
  });

  it("keeps what a score depends on, and a line for each answer", async () => {
    const generator = new FunctionGenerator(({ problem }, i) => (i === 1 ? "    return None\n" : solution(problem.id)));
    const progress: EvalProgress[] = [];
    const onProgress = (each: EvalProgress) => void progress.push(each);
    const options = { data, outputDir: out("kept"), seed: 5, maxTokens: 64 };
    const summary = await evaluate(humaneval, generator, options, { onProgress });
    const sha256 = loadTask(humaneval, data).sha256;
    expect(summary).toMatchObject({
      task: `humaneval@${sha256.slice(0, 8)}/base`,
      data: { sha256 },
      model: { kind: "model", name: "function" },
      decoding: { temperature: 0, maxTokens: 64, mode: "diffusion" },
      stop: expect.arrayContaining(["\ndef", "\nclass"]),
      ...{ seed: 5, samples: 1, problems: 3, isolated: true },
      counts: { passed: 2, failed: 1 },
      versions: { node: process.versions.node, python: expect.stringMatching(/^3\./) },
    });
    expect(summary.passAt[1].value).toBeCloseTo(2 / 3);
    expect(JSON.parse(read("kept", "summary.json"))).toEqual(JSON.parse(JSON.stringify(summary)));
    const results = read("kept", "results.jsonl")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(results.map(({ problem, status }) => `${problem} ${status}`)).toEqual([
      "Own/0 passed",
      "Own/1 failed",
      "Own/2 passed",
    ]);
    expect(progress.at(-1)).toEqual({ phase: "score", done: 3, total: 3 });
  });

  it("continues: answers that are there are not asked for again, and a torn last line is", async () => {
    const outputDir = out("resumed");
    const stopped = new AbortController();
    const first = new FunctionGenerator(({ problem }, i) => {
      if (i === 1) stopped.abort(new Error("stopped"));
      return solution(problem.id);
    });
    await expect(evaluate(humaneval, first, { data, outputDir }, { signal: stopped.signal })).rejects.toThrow(
      "stopped",
    );
    expect(read("resumed", "samples.jsonl").trim().split("\n")).toHaveLength(2);
    const file = join(outputDir, "samples.jsonl");
    truncateSync(file, readFileSync(file).length - 7);
    const second = new FunctionGenerator(({ problem }) => solution(problem.id));
    const summary = await evaluate(humaneval, second, { data, outputDir });
    expect(second.asked).toEqual(["Own/1", "Own/2"]);
    expect(summary.counts.passed).toBe(3);
    const third = new FunctionGenerator(() => "");
    await evaluate(humaneval, third, { data, outputDir });
    expect(third.asked).toEqual([]);
  });

  it("is not continued with other settings, another model or damaged answers", async () => {
    const outputDir = out("kept-apart");
    await evaluate(humaneval, new FunctionGenerator(() => ""), { data, outputDir });
    const again = (options: object, name = "function") =>
      evaluate(humaneval, new FunctionGenerator(() => "", name), { data, outputDir, ...options });
    await expect(again({ temperature: 0.5 })).rejects.toMatchObject({
      code: "EVAL_RUN_MISMATCH",
      message: expect.stringMatching(/decoding: .*"temperature":0,.* there, .*"temperature":0.5,.* now/),
    });
    await expect(again({}, "another")).rejects.toMatchObject({ code: "EVAL_RUN_MISMATCH" });
    appendFileSync(join(outputDir, "samples.jsonl"), "{}\n");
    await expect(again({})).rejects.toMatchObject({
      code: "EVAL_RESULTS",
      message: expect.stringContaining("samples.jsonl:4"),
    });
  });

  it("is judged again without a model", async () => {
    const outputDir = out("rescored");
    const summary = await evaluate(humaneval, new FunctionGenerator(({ problem }) => solution(problem.id)), {
      data,
      outputDir,
    });
    const file = join(outputDir, "samples.jsonl");
    const changed = readFileSync(file, "utf8").replace("return a + b", "return a - b");
    writeFileSync(file, changed);
    const again = await rescore(humaneval, outputDir, { data });
    expect(again.counts).toMatchObject({ passed: 2, failed: 1 });
    expect({ ...again, counts: 0, passAt: 0 }).toEqual({
      ...JSON.parse(JSON.stringify(summary)),
      counts: 0,
      passAt: 0,
    });
    await expect(rescore(humaneval, outputDir, { data, k: [2] })).rejects.toMatchObject({ code: "EVAL_OPTIONS" });
    const other = join(folder, "other.jsonl");
    writeFileSync(other, `${JSON.stringify(RECORDS[0])}\n`);
    await expect(rescore(humaneval, outputDir, { data: other })).rejects.toMatchObject({ code: "EVAL_RUN_MISMATCH" });
    await expect(rescore(humaneval, out("nowhere"), { data })).rejects.toMatchObject({ code: "EVAL_RESULTS" });
  });

  it("draws several answers with seeds of their own, the same in every run", async () => {
    const seeds: number[][] = [];
    for (const outputDir of [out("n-1"), out("n-2")]) {
      const drawn: number[] = [];
      const generator = new FunctionGenerator(({ problem, seed }, i) => {
        drawn.push(seed);
        return i % 2 === 0 ? solution(problem.id) : "    return None\n";
      });
      const summary = await evaluate(humaneval, generator, {
        data,
        outputDir,
        samples: 4,
        temperature: 0.8,
        k: [1, 2, 4],
      });
      expect(summary.passAt[1].value).toBeCloseTo(0.5);
      expect(summary.passAt[2].value).toBeCloseTo(5 / 6);
      expect(summary.passAt[4].value).toBe(1);
      seeds.push(drawn);
    }
    expect(new Set(seeds[0]).size).toBe(12);
    expect(seeds[0]).toEqual(seeds[1]);
  });

  it("tries a program that runs out of time once more alone, and reports it apart", async () => {
    const slow = new FunctionGenerator(({ problem }) =>
      problem.id === "Own/0" ? "    while True: pass\n" : solution(problem.id),
    );
    const summary = await evaluate(humaneval, slow, { data, outputDir: out("slow") });
    expect(summary.counts).toMatchObject({ passed: 2, failed: 0, timeout: 1 });
    expect(summary.passAt[1].value).toBeCloseTo(2 / 3);
  });

  it("gives a slow machine's programs as much time as the authors' solution needs there", async () => {
    // The solution takes longer than the limit: a machine on which everything is slow.
    const busy =
      "    import time\n    end = time.process_time() + 1.5\n    while time.process_time() < end: pass\n    return a + b\n";
    const file = join(folder, "busy.jsonl");
    writeFileSync(
      file,
      `${JSON.stringify({ ...RECORDS[0], canonical_solution: busy, test: RECORDS[0].test.split("\n").slice(0, 2).join("\n") })}\n`,
    );
    const short: Task = {
      ...humaneval,
      problems: (text) =>
        humaneval.problems(text).map((problem) => ({
          ...problem,
          program: (completion, promptId) =>
            ({ ...problem.program(completion, promptId), seconds: 1 }) as ReturnType<typeof problem.program>,
        })),
    };
    const summary = await evaluate(short, new CanonicalGenerator(), { data: file, outputDir: out("busy") });
    expect(summary.counts).toMatchObject({ passed: 1, timeout: 0 });
  });

  it("gives the same verdicts with one program at a time as with four", async () => {
    const answers = ["return a + b", "return a - b", "return None", "while True: pass", "return [a, b]", "raise a"];
    const make = () => new FunctionGenerator((_, i) => `    ${answers[i % answers.length]}\n`);
    const results: string[] = [];
    for (const concurrency of [1, 4]) {
      const name = `load-${concurrency}`;
      await evaluate(humaneval, make(), { data, outputDir: out(name), concurrency, samples: 4, temperature: 1 });
      results.push(read(name, "results.jsonl"));
    }
    expect(results[0]).toBe(results[1]);
  });
});

describe("options and data", () => {
  const fails = (options: object, task: Task = humaneval) =>
    evaluate(task, new CanonicalGenerator(), { data, outputDir: out("never"), ...options }).then(
      () => "none",
      (error) => `${error.code}: ${error.message}`,
    );

  it("are refused where they cannot give the score that they name", async () => {
    expect(await fails({ k: [10], samples: 5, temperature: 1 })).toMatch(
      /EVAL_OPTIONS.*pass@10 needs at least 10 samples/s,
    );
    expect(await fails({ samples: 5 })).toMatch(/EVAL_OPTIONS.*set a temperature above 0/s);
    expect(await fails({ prompt: "cot" })).toMatch(/EVAL_OPTIONS.*no prompt "cot"; allowed: base, stripped, chat/);
    expect(await fails({ topQ: 1 })).toMatch(/EVAL_OPTIONS.*topQ: unknown key \(did you mean topP\?\)/s);
    expect(await fails({ data: "/nowhere" })).toMatch(/EVAL_DATA.*no such file/);
    expect(await fails({ data: folder })).toMatch(/EVAL_DATA.*has no humaneval\/HumanEval.jsonl.gz/);
    const wrong = join(folder, "wrong.jsonl");
    writeFileSync(wrong, "{}\n");
    expect(await fails({ data: wrong })).toMatch(/EVAL_DATA.*not the file that its authors publish/);
    writeFileSync(wrong, "\n");
    expect(await fails({ data: wrong })).toMatch(/EVAL_DATA.*has no problems/);
    expect(() => taskNamed("humanevil")).toThrow(/no benchmark "humanevil"; known: humaneval, humaneval\+/);
  });

  it("stop strings are searched literally, and the first one counts", () => {
    const stop = ["<|endoftext|>", "\ndef", "a|b"];
    expect(cutAtStop("x = a > b | c\n<|endoftext|>y", stop)).toBe("x = a > b | c\n");
    expect(cutAtStop("x\ndef y<|endoftext|>", stop)).toBe("x");
    expect(cutAtStop("a\nb", stop)).toBe("a\nb");
  });

  it("code is taken out of a chat model's fence, with whatever stands around it", () => {
    expect(fencedCode("Sure!\n```python\nx = 1\n```\nDone")).toBe("x = 1\n");
    expect(fencedCode("```\nx = 1")).toBe("x = 1");
    expect(fencedCode("  ```py\n  x\n  ```")).toBe("  x\n");
    expect(fencedCode("x = '```'")).toBe("x = '```'");
  });
});
