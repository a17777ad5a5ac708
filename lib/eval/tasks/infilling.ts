import { jsonLines, type Problem, type Task } from "../task.js";
import type { HumanEvalRecord } from "./humaneval.js";

interface InfillingRecord extends HumanEvalRecord {
  suffix: string;
}

/** HumanEval-Infilling (openai/human-eval-infilling): a gap in a canonical solution is filled. */
export const infillingSingleLine = infilling("single-line", "SingleLine");
export const infillingMultiLine = infilling("multi-line", "MultiLine");
export const infillingRandomSpan = infilling("random-span", "RandomSpan");
export const infillingRandomSpanLight = infilling("random-span-light", "RandomSpanLight");

function infilling(name: string, title: string): Task {
  return {
    name: `infilling-${name}`,
    title: `HumanEval-Infilling (${name})`,
    files: [`humaneval-infilling/HumanEval-${title}Infilling.jsonl.gz`],
    // The model's end token ends the gap. The authors' harness has no stop strings.
    stop: { base: [], line: ["\n"] },
    maxTokens: 512,
    problems: (text) => jsonLines<InfillingRecord>(text).map(({ record }) => problem(record)),
  };
}

function problem({ task_id, prompt, suffix, entry_point, canonical_solution, test }: InfillingRecord): Problem {
  const reference = `${prompt}${canonical_solution}${suffix}`;
  const gap = { text: prompt, suffix };
  return {
    id: task_id,
    prompts: { base: gap, line: gap },
    canonical: (promptId) => (promptId === "line" ? canonical_solution.replace(/\n[^]*$/, "") : canonical_solution),
    // Whatever the gap held, the function now ends before it.
    mutant: `${indentOf(canonical_solution, prompt)}return None\n`,
    program: (completion, promptId) => ({
      kind: "python",
      // The stop string "\n" is part of the line that is filled in.
      source: `${prompt}${completion}${promptId === "line" && canonical_solution.endsWith("\n") ? "\n" : ""}${suffix}`,
      test: { style: "check", reference, test, entryPoint: entry_point },
      seconds: 3,
    }),
  };
}

/** The indentation that a statement needs in the gap, with what ends the line before it. */
function indentOf(solution: string, prompt: string): string {
  const indent = /^[ \t]*/.exec(solution)?.[0] ?? "";
  return prompt.endsWith("\n") ? indent : `\n${indent || "    "}`;
}
