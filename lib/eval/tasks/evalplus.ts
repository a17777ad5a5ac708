import { fencedCode, inFence, jsonLines, type Problem, type Task } from "../task.js";

/** What this harness reads of a record of HumanEvalPlus.jsonl.gz or MbppPlus.jsonl.gz; the judge reads the rest. */
interface EvalPlusRecord {
  task_id: string;
  prompt: string;
  entry_point: string;
  canonical_solution: string;
}

/** evalplus/provider/utility.py */
const EOS = ["<|endoftext|>", "<|endofmask|>", "</s>", "\nif __name__", "\ndef main(", "\nprint("];
const HUMANEVAL_EOS = [...EOS, "\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert "];
const MBPP_EOS = [...EOS, '\n"""', "\nassert"];

const INSTRUCTION =
  "Please provide a self-contained Python script that solves the following problem in a markdown code block:";

/** HumanEval+ v0.1.10. */
export const humanevalPlus = evalPlus("humaneval+", "HumanEval+", "humaneval", HUMANEVAL_EOS, [
  "humanevalplus/HumanEvalPlus.jsonl.gz",
]);
/** HumanEval+ with the smaller set of inputs that finds the same faults in the models that EvalPlus' authors tried. */
export const humanevalPlusMini = evalPlus("humaneval+mini", "HumanEval+ Mini", "humaneval", HUMANEVAL_EOS, [
  "humanevalplus/HumanEvalPlus-Mini.jsonl.gz",
]);
/** MBPP+ v0.2.0, 378 problems. */
export const mbppPlus = evalPlus("mbpp+", "MBPP+", "mbpp", MBPP_EOS, ["mbppplus/MbppPlus.jsonl.gz"]);
/** MBPP+ v0.1.0, 399 problems: those of the Stable-DiffCoder paper. */
export const mbppPlus399 = evalPlus("mbpp+399", "MBPP+ (399)", "mbpp", MBPP_EOS, ["mbppplus/MbppPlus-v0.1.0.jsonl.gz"]);

function evalPlus(
  name: string,
  title: string,
  dataset: "humaneval" | "mbpp",
  stop: readonly string[],
  files: readonly string[],
): Task {
  const problem = ({ record, line }: { record: EvalPlusRecord; line: string }): Problem => {
    const { task_id, prompt, entry_point, canonical_solution } = record;
    const text = `${prompt.trim()}\n`;
    return {
      id: task_id,
      prompts: {
        base: { text },
        chat: { message: `${INSTRUCTION}\n\`\`\`\n${prompt.trim()}\n\`\`\`\n` },
      },
      canonical: (promptId) => (promptId === "chat" ? inFence(`${text}${canonical_solution}`) : canonical_solution),
      mutant: dataset === "humaneval" ? "    return None\n" : `def ${entry_point}(*args):\n    return None\n`,
      program: (completion, promptId) => ({
        kind: "python",
        source: promptId === "chat" ? fencedCode(completion) : `${text}${completion}`,
        sanitize: entry_point,
        test: { style: "evalplus", dataset, record: line },
        seconds: 61, // EvalPlus: a minute a task, four seconds an input
      }),
    };
  };
  return {
    name,
    title,
    files,
    stop: { base: stop, chat: [] },
    maxTokens: 768,
    problems: (text) => jsonLines<EvalPlusRecord>(text).map(problem),
  };
}
