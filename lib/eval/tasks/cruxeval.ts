import { jsonLines, type Problem, type Task } from "../task.js";
import { COT_INPUT, COT_OUTPUT, DIRECT_INPUT, DIRECT_OUTPUT } from "./cruxeval-prompts.js";

interface CruxRecord {
  id: string;
  code: string;
  input: string;
  output: string;
}

const FILES = ["cruxeval/cruxeval.jsonl"];
const STOP = { base: ["[/ANSWER]"], cot: ["[/ANSWER]"] };

/** CRUXEval-O (facebookresearch/cruxeval): what a function returns. Prompt "cot": with reasoning first. */
export const cruxevalOutput: Task = {
  ...{ name: "cruxeval-output", title: "CRUXEval-O", files: FILES, stop: STOP, maxTokens: 1024 },
  problems: (text) => jsonLines<CruxRecord>(text).map(({ record }) => outputProblem(record)),
};

/** CRUXEval-I: an input for which a function returns a given value. */
export const cruxevalInput: Task = {
  ...{ name: "cruxeval-input", title: "CRUXEval-I", files: FILES, stop: STOP, maxTokens: 1024 },
  problems: (text) => jsonLines<CruxRecord>(text).map(({ record }) => inputProblem(record)),
};

function outputProblem({ id, code, input, output }: CruxRecord): Problem {
  const solution = `assert f(${input}) == ${output}\n`;
  return {
    id,
    prompts: {
      base: { text: fill(DIRECT_OUTPUT, { code, input }) },
      cot: { text: fill(COT_OUTPUT, { code, input }) },
    },
    canonical: (promptId) => (promptId === "cot" ? `[ANSWER]\n${solution}` : solution),
    mutant: `assert f(${input}) == ...\n`,
    program(completion, promptId) {
      const answer = after(afterTag(completion, promptId), "==").trim();
      // An answer that calls the function would be checked against itself: the authors leave it out of n, here it fails.
      if (answer === "" || answer.includes(`f(${input})`)) return { kind: "decided", passed: false };
      return program(code, answer, output);
    },
  };
}

function inputProblem({ id, code, input, output }: CruxRecord): Problem {
  const solution = `assert f(${input}) == ${output}\n`;
  return {
    id,
    prompts: {
      base: { text: fill(DIRECT_INPUT, { code, output }) },
      cot: { text: fill(COT_INPUT, { code, output }) },
    },
    canonical: (promptId) => (promptId === "cot" ? `[ANSWER]\n${solution}` : solution),
    mutant: `assert f() == ${output}\n`,
    program(completion, promptId) {
      let answer = afterTag(completion, promptId);
      if (answer.includes("==")) answer = answer.split("==")[0].trim();
      if (answer.includes("assert f")) answer = `f${after(answer, "assert f").trim()}`;
      if (!answer.includes("f(")) return { kind: "decided", passed: false };
      return program(code, answer.trim(), output);
    },
  };
}

/** `assert OUTPUT == ANSWER` after the code, as evaluation/utils_general.py runs it. */
function program(code: string, expression: string, expected: string) {
  return { kind: "python", source: code, test: { style: "equal", expression, expected }, seconds: 3 } as const;
}

/** With reasoning, what stands behind the first [ANSWER]. */
function afterTag(text: string, promptId: string): string {
  return promptId === "cot" ? after(text, "[ANSWER]").trim() : text;
}

/** As Python's `text.split(mark)[1]`: up to the next mark; the whole text where there is none. */
function after(text: string, mark: string): string {
  return text.split(mark)[1] ?? text;
}

function fill(template: string, values: Readonly<Record<string, string>>): string {
  return template.replace(/\{(code|input|output)\}/g, (_, name: string) => values[name]);
}
