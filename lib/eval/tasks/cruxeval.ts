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

function outputProblem(record: CruxRecord): Problem {
  const { input } = record;
  return problem(record, {
    templates: { base: DIRECT_OUTPUT, cot: COT_OUTPUT },
    mutant: `assert f(${input}) == ...\n`,
    expressionOf(text) {
      const answer = after(text, "==").trim();
      // An answer that calls the function would be checked against itself: the authors leave it out of n, here it fails.
      return answer === "" || answer.includes(`f(${input})`) ? undefined : answer;
    },
  });
}

function inputProblem(record: CruxRecord): Problem {
  return problem(record, {
    templates: { base: DIRECT_INPUT, cot: COT_INPUT },
    mutant: `assert f() == ${record.output}\n`,
    expressionOf(text) {
      let answer = text;
      if (answer.includes("==")) answer = answer.split("==")[0].trim();
      if (answer.includes("assert f")) answer = `f${after(answer, "assert f").trim()}`;
      return answer.includes("f(") ? answer.trim() : undefined;
    },
  });
}

interface CruxKind {
  templates: { base: string; cot: string };
  mutant: string;
  /** The expression of an answer that must have the function's output as its value; undefined for an answer without one. */
  expressionOf(answer: string): string | undefined;
}

function problem(record: CruxRecord, { templates, mutant, expressionOf }: CruxKind): Problem {
  const { id, code, input, output } = record;
  const solution = `assert f(${input}) == ${output}\n`;
  return {
    id,
    prompts: { base: { text: fill(templates.base, record) }, cot: { text: fill(templates.cot, record) } },
    canonical: (promptId) => (promptId === "cot" ? `[ANSWER]\n${solution}` : solution),
    mutant,
    program(completion, promptId) {
      const expression = expressionOf(afterTag(completion, promptId));
      if (expression === undefined) return { kind: "decided", passed: false };
      return program(code, expression, output);
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

function fill(template: string, record: CruxRecord): string {
  return template.replace(/\{(code|input|output)\}/g, (_, name: "code" | "input" | "output") => record[name]);
}
