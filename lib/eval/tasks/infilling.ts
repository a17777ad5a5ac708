import { jsonLines, type Problem, type Task } from "../task.js";
import type { HumanEvalRecord } from "./humaneval.js";

interface InfillingRecord extends HumanEvalRecord {
  suffix: string;
}

/** HumanEval-Infilling (openai/human-eval-infilling): a gap in a canonical solution is filled. */
export const infillingSingleLine = infilling("single-line", "SingleLine", { base: [], line: ["\n"] });
export const infillingMultiLine = infilling("multi-line", "MultiLine", { base: [] });
export const infillingRandomSpan = infilling("random-span", "RandomSpan", { base: [] });
export const infillingRandomSpanLight = infilling("random-span-light", "RandomSpan", { base: [] }, "Light");

/** @param stop the authors' harness has no stop strings: the model's end token ends the gap. "line" ends it with the line. */
function infilling(name: string, file: string, stop: Task["stop"], ending = ""): Task {
  return {
    name: `infilling-${name}`,
    title: `HumanEval-Infilling (${name})`,
    files: [`humaneval-infilling/HumanEval-${file}Infilling${ending}.jsonl.gz`],
    stop,
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
    canonical: () => canonical_solution,
    program: (completion, promptId) => ({
      kind: "python",
      // The stop string is the end of the line that is filled in.
      source: `${prompt}${completion}${promptId === "line" ? "\n" : ""}${suffix}`,
      test: { style: "check", reference, test, entryPoint: entry_point },
      seconds: 3,
    }),
  };
}
