import { fencedCode, inFence, jsonLines, type Problem, type Task } from "../task.js";

/** A record of mbpp.jsonl. */
interface MbppRecord {
  task_id: number;
  text: string;
  code: string;
  test_setup_code: string;
  test_list: string[];
}

/** bigcode-evaluation-harness' list. Behind the few-shot prompt an answer ends with [DONE]. */
const STOP = ["\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```"];

/** Few-shot examples (mbpp/README.md), and the split that scores are given for. */
const EXAMPLES = [2, 3, 4];
const [FIRST_TEST, LAST_TEST] = [11, 510];

/** MBPP, the 500 problems of its test split. */
export const mbpp: Task = mbppTask("mbpp", "MBPP", (id) => id >= FIRST_TEST && id <= LAST_TEST);
/** All 974 problems of the file, examples and training split included. */
export const mbppAll: Task = mbppTask("mbpp-all", "MBPP (all splits)", () => true);

function mbppTask(name: string, title: string, isIncluded: (id: number) => boolean): Task {
  return {
    name,
    title,
    files: ["mbpp/mbpp.jsonl"],
    stop: { base: STOP, "3-shot": ["[DONE]"], chat: [] },
    maxTokens: 512,
    problems(text) {
      const records = jsonLines<MbppRecord>(text).map(({ record }) => record);
      const shots = EXAMPLES.flatMap((id) => records.filter(({ task_id }) => task_id === id))
        .map((record) => `${fewShot(record)}${record.code}\n[DONE]\n\n`)
        .join("");
      return records.filter(({ task_id }) => isIncluded(task_id)).map((record) => problem(record, shots));
    },
  };
}

/** Austin et al. 2021, as lm-evaluation-harness writes it. */
function fewShot({ text, test_list }: MbppRecord): string {
  const tests = test_list.join("\n");
  return `You are an expert Python programmer, and here is your task: ${text} Your code should pass these tests:\n\n${tests}\n[BEGIN]\n`;
}

function problem(record: MbppRecord, shots: string): Problem {
  const { task_id, text, code, test_setup_code, test_list } = record;
  const docstring = `"""\n${text}\n${test_list[0]}\n"""\n`; // InCoder's prompt: one test in a docstring
  return {
    id: `MBPP/${task_id}`,
    prompts: {
      base: { text: docstring },
      "3-shot": { text: `${shots}${fewShot(record)}` },
      chat: { message: `${fewShot(record).replace(/\[BEGIN\]\n$/, "")}\nAnswer with one Python code block.` },
    },
    canonical: (promptId) => (promptId === "chat" ? inFence(code) : code),
    mutant: "def nothing():\n    return None\n",
    program: (completion, promptId) => ({
      kind: "python",
      source: { base: `${docstring}${completion}`, chat: fencedCode(completion) }[promptId] ?? completion,
      test: { style: "asserts", reference: code, setup: test_setup_code, tests: test_list },
      seconds: 3,
    }),
  };
}
