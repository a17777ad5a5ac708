import { describe, expect, it } from "vitest";
import { loadTask, type Problem, TASKS, type Task, taskNamed } from "../../lib/eval/index.js";
import { score } from "../../lib/eval/score.js";
import { BENCHMARKS, judges, named, noBenchmarks } from "./support.js";

/** Every problem with DIFFCODER_ALL_PROBLEMS, else each so-many-th: the whole takes minutes. */
const EVERY = process.env.DIFFCODER_ALL_PROBLEMS ? 1 : 12;
/** Problems whose inputs take more than some seconds; the whole has them. */
const SLOW = [
  "Mbpp/255",
  "Mbpp/599",
  "Mbpp/392",
  "Mbpp/271",
  "Mbpp/603",
  "Mbpp/592",
  "Mbpp/630",
  "Mbpp/123",
  "Mbpp/84",
];

const SIZES: Readonly<Record<string, number>> = {
  ...{ humaneval: 164, "humaneval+": 164, "humaneval+mini": 164 },
  ...{ mbpp: 500, "mbpp-all": 974, "mbpp+": 378, "mbpp+399": 399 },
  ...{ "infilling-single-line": 1033, "infilling-multi-line": 5815 },
  ...{ "infilling-random-span": 1640, "infilling-random-span-light": 164 },
  ...{ "cruxeval-output": 800, "cruxeval-input": 800 },
};
/** Those whose problems are others', too, and do not need to be run again here. */
const SUBSETS = ["mbpp", "humaneval+mini", "infilling-multi-line", "infilling-random-span"];

const load = (task: Task) => loadTask(task, BENCHMARKS ?? "");
const chosen = (task: Task): Problem[] =>
  load(task).problems.filter(({ id }, i) => i % EVERY === 0 && (EVERY === 1 || !SLOW.includes(id)));

async function statuses(
  problems: readonly Problem[],
  task: Task,
  promptId: string,
  answer: (problem: Problem) => string,
) {
  const items = problems.map((problem) => ({ problem, promptId, stop: task.stop[promptId], text: answer(problem) }));
  const verdicts = await score(items, judges());
  return verdicts.map(({ status, detail }, i) => ({ id: problems[i].id, status, detail }));
}

describe.skipIf(noBenchmarks)(named("benchmarks as their authors publish them", noBenchmarks), () => {
  it("have a size that is known, and are all here", () => {
    const sizes = Object.fromEntries(TASKS.map((task) => [task.name, load(task).problems.length]));
    expect(sizes).toEqual(SIZES);
  });

  it("have unique ids, and an answer and a prompt of each kind for every problem", () => {
    for (const task of TASKS) {
      const { problems } = load(task);
      expect(new Set(problems.map(({ id }) => id)).size).toBe(problems.length);
      for (const { prompts, canonical } of problems) {
        expect(Object.keys(prompts)).toEqual(expect.arrayContaining(Object.keys(task.stop)));
        expect(canonical?.("base")).toBeTypeOf("string"); // a span may be empty
      }
    }
  });

  it.each(TASKS.filter(({ name }) => !SUBSETS.includes(name) || EVERY === 1).map(({ name }) => name))(
    "%s: the authors' solutions pass",
    async (name) => {
      const task = taskNamed(name);
      const results = await statuses(chosen(task), task, "base", ({ canonical }) => canonical?.("base") ?? "");
      expect(results.filter(({ status }) => status !== "passed")).toEqual([]);
      expect(results.length).toBeGreaterThan(10);
    },
  );

  it.each(["humaneval", "mbpp-all", "mbpp+", "cruxeval-output", "cruxeval-input"])(
    "%s: programs that do nothing fail",
    async (name) => {
      const task = taskNamed(name);
      const results = await statuses(chosen(task), task, "base", ({ mutant }) => mutant ?? "");
      expect(results.filter(({ status }) => status !== "failed")).toEqual([]);
    },
  );

  it.each([
    ["humaneval", "chat"],
    ["humaneval+mini", "chat"],
    ["mbpp", "chat"],
    ["mbpp", "3-shot"],
    ["cruxeval-output", "cot"],
    ["cruxeval-input", "cot"],
  ])("%s: the authors' solutions pass as answers to the prompt %s", async (name, promptId) => {
    const task = taskNamed(name);
    const problems = chosen(task).slice(0, 12);
    const results = await statuses(problems, task, promptId, ({ canonical }) => canonical?.(promptId) ?? "");
    expect(results.filter(({ status }) => status !== "passed")).toEqual([]);
  });

  it("have the authors' prompts", () => {
    const [first] = load(taskNamed("cruxeval-output")).problems;
    expect(first.prompts.base).toEqual({
      text: expect.stringMatching(/\[PYTHON\]\ndef f\(nums\)[\s\S]*\[ANSWER\]\n$/),
    });
    expect(first.prompts.cot).toEqual({ text: expect.stringMatching(/== \?\?\n\[\/PYTHON\]\n\[THOUGHT\]\n$/) });
    const [plus] = load(taskNamed("mbpp+")).problems;
    expect(plus.prompts.base).toEqual({ text: expect.stringMatching(/^"""\nWrite a function[\s\S]*\n"""\n$/) });
    const [shots] = load(taskNamed("mbpp")).problems;
    const text = "text" in shots.prompts["3-shot"] ? shots.prompts["3-shot"].text : "";
    expect(text.split("[BEGIN]\n")).toHaveLength(5);
    expect(text.split("[DONE]\n")).toHaveLength(4);
    expect(text).toMatch(
      /^You are an expert Python programmer, and here is your task: Write a function to find the similar/,
    );
  });
});
