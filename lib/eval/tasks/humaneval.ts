import { fencedCode, inFence, jsonLines, type Problem, type Task } from "../task.js";

/** A record of HumanEval.jsonl.gz. */
export interface HumanEvalRecord {
  task_id: string;
  prompt: string;
  entry_point: string;
  canonical_solution: string;
  test: string;
}

/** Chen et al. 2021, section 3.1; `@` and the fence are bigcode-evaluation-harness' additions. */
const STOP = ["\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```"];

/** HumanEval (openai/human-eval): a function's signature and docstring are continued. */
export const humaneval: Task = {
  name: "humaneval",
  title: "HumanEval",
  files: ["humaneval/HumanEval.jsonl.gz"],
  stop: { base: STOP, stripped: STOP, chat: [] },
  maxTokens: 512,
  problems: (text) => jsonLines<HumanEvalRecord>(text).map(({ record }) => problem(record)),
};

function problem({ task_id, prompt, entry_point, canonical_solution, test }: HumanEvalRecord): Problem {
  const reference = `${prompt}${canonical_solution}`;
  return {
    id: task_id,
    prompts: {
      base: { text: prompt },
      // bigcode-evaluation-harness' task "humaneval": no newline at the prompt's end.
      stripped: { text: prompt.trim() },
      chat: { message: chatMessage(prompt) },
    },
    canonical: (promptId) =>
      promptId === "chat" ? inFence(reference) : canonicalOf(prompt, canonical_solution, promptId),
    mutant: "    return None\n",
    program(completion, promptId) {
      const prefix = { base: prompt, stripped: prompt.trim() }[promptId];
      return {
        kind: "python",
        source: prefix === undefined ? chatProgram(prompt, entry_point, completion) : `${prefix}${completion}`,
        test: { style: "check", reference, test, entryPoint: entry_point },
        seconds: 3,
      };
    },
  };
}

/** A stripped prompt ends without the newline that the solution continues. */
function canonicalOf(prompt: string, solution: string, promptId: string): string {
  return promptId === "stripped" ? `${prompt.slice(prompt.trimEnd().length)}${solution}` : solution;
}

/** lm-evaluation-harness' humaneval_instruct, without the start of an answer that not every server can be given. */
export function chatMessage(prompt: string): string {
  return (
    "Write a solution to the following problem and make sure that it passes the tests:\n" +
    `\`\`\`python\n${prompt}\n\`\`\`\n`
  );
}

/** The answer's code; behind the prompt's imports and helper functions where it does not repeat them. */
export function chatProgram(prompt: string, entryPoint: string, answer: string): string {
  const code = fencedCode(answer);
  if (!new RegExp(`^\\s*def ${entryPoint}\\b`, "m").test(code)) return `${prompt}${code}`;
  return `${prompt.slice(0, prompt.lastIndexOf(`def ${entryPoint}`))}\n${code}`;
}
