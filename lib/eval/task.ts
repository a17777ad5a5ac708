import { createHash } from "node:crypto";
import { existsSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { gunzipSync } from "node:zlib";
import { FileError, readRegularFile } from "../base/regular-file.js";
import { EvaluationError } from "./errors.js";

/** What a model is given. Either text to continue, with what follows the gap for infilling, or a user's message. */
export type EvalPrompt = { text: string; suffix?: string } | { message: string };

/** A test that is run in the judge's process (assets/eval/judge.py); each value that a program gives goes there as data. */
export type PythonTest =
  /** `check(candidate)` of HumanEval; `reference` has the helper functions that the test uses. */
  | { style: "check"; reference: string; test: string; entryPoint: string }
  /** Lines such as `assert f(1) == 2`; names that `reference` defines are the program's. */
  | { style: "asserts"; reference: string; imports?: string; setup: string; tests: readonly string[] }
  /** The program's value of an expression must equal that of `expected`. */
  | { style: "equal"; expression: string; expected: string }
  /** Inputs of an EvalPlus record, given as the text of its line: numbers keep Python's types. */
  | { style: "evalplus"; dataset: "humaneval" | "mbpp"; record: string };

/** A completion as something that can be judged. */
export type Program =
  | { kind: "python"; source: string; test: PythonTest; seconds: number; sanitize?: string }
  /** Files and commands; it passes if each command exits with 0. `tools` must be installed, or it is not run. */
  | {
      kind: "commands";
      files: Readonly<Record<string, string>>;
      commands: readonly Command[];
      tools: readonly string[];
    }
  /** Decided without running anything. */
  | { kind: "decided"; passed: boolean };

export interface Command {
  argv: readonly string[];
  /** Processor time in seconds. */
  seconds: number;
  /** False for runtimes that reserve much more memory than they use, such as V8 and the JVM. */
  limitMemory?: boolean;
}

/** One problem of a benchmark. */
export interface Problem {
  id: string;
  /** Prompts by their id: "base" and "chat", and what else the benchmark is run with. */
  prompts: Readonly<Record<string, EvalPrompt>>;
  /** What a perfect model answers: the authors' solution. Undefined where they publish none. */
  canonical?(promptId: string): string;
  /** What is answered to "base" by a program that does nothing: it must fail. */
  mutant?: string;
  /** The program of a completion that is cut at the stop strings. */
  program(completion: string, promptId: string): Program;
}

/** A benchmark: where its data are, how models are asked, and what scores an answer. */
export interface Task {
  name: string;
  title: string;
  /** Path of the data below the benchmarks' folder, as its authors name it. The first that exists counts. */
  files: readonly string[];
  /** By prompt id the strings that end an answer. */
  stop: Readonly<Record<string, readonly string[]>>;
  maxTokens: number;
  /** Problems of the file's text. */
  problems(text: string): Problem[];
}

/** A benchmark with its data. */
export interface LoadedTask {
  task: Task;
  problems: Problem[];
  file: string;
  /** SHA-256 of the file as it is on disk, in hexadecimal. */
  sha256: string;
}

/**
 * Reads a benchmark's data.
 *
 * @param data the file, or a folder with the benchmarks in the layout of {@link Task.files}
 * @throws EvaluationError EVAL_DATA if there is no such file or it has no problems
 */
export function loadTask(task: Task, data: string): LoadedTask {
  const file = dataFile(task, data);
  let bytes: Buffer;
  try {
    bytes = readRegularFile(file);
  } catch (cause) {
    if (!(cause instanceof FileError)) throw cause;
    throw new EvaluationError("EVAL_DATA", `${task.name}: ${file}: ${cause.message}`, { cause });
  }
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  let problems: Problem[];
  try {
    problems = task.problems((file.endsWith(".gz") ? gunzipSync(bytes) : bytes).toString("utf8"));
  } catch (cause) {
    if (cause instanceof EvaluationError) throw cause;
    const words = cause instanceof Error ? cause.message : String(cause);
    throw new EvaluationError("EVAL_DATA", `${task.name}: ${file} is not the file that its authors publish: ${words}`, {
      cause,
    });
  }
  if (problems.length === 0) throw new EvaluationError("EVAL_DATA", `${task.name}: ${file} has no problems`);
  return { task, problems, file, sha256 };
}

function dataFile(task: Task, data: string): string {
  if (!existsSync(data))
    throw new EvaluationError("EVAL_DATA", `${task.name}: ${data}: there is no such file or folder`);
  if (!statSync(data).isDirectory()) return data;
  const candidates = task.files.flatMap((file) => [join(data, file), join(data, basename(file))]);
  const found = candidates.find((file) => existsSync(file));
  if (found !== undefined) return found;
  throw new EvaluationError(
    "EVAL_DATA",
    `${task.name}: ${data} has no ${task.files.join(" or ")}. docs/evaluation.md says where it is from`,
  );
}

/** `humaneval@b796127e/base`: benchmark, data and prompt. Scores with different ids cannot be compared. */
export function taskId({ task, sha256 }: LoadedTask, promptId: string): string {
  return `${task.name}@${sha256.slice(0, 8)}/${promptId}`;
}

/** The records of JSON lines. Python writes NaN and Infinity, which are null here. */
export function jsonLines<T>(text: string): { record: T; line: string }[] {
  return text
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line) => {
      const plain = line.replace(/"(?:[^"\\]|\\.)*"|-?Infinity|NaN/g, (word) => (word[0] === '"' ? word : "null"));
      return { record: JSON.parse(plain) as T, line };
    });
}

/** Text up to the first stop string. They are searched literally. */
export function cutAtStop(text: string, stop: readonly string[]): string {
  let end = text.length;
  for (const each of stop) {
    const at = text.indexOf(each);
    if (at >= 0 && at < end) end = at;
  }
  return text.slice(0, end);
}

/** Code as a chat model writes it. */
export function inFence(code: string): string {
  return `\`\`\`python\n${code}\n\`\`\`\n`;
}

/**
 * Code of a chat model's answer: the first fenced block, also one that does not end, with or without a language; the whole
 * text where there is none.
 */
export function fencedCode(text: string): string {
  const open = /^[ \t]*```[^\n`]*\n/m.exec(text);
  if (open === null) return text;
  const rest = text.slice(open.index + open[0].length);
  const close = /^[ \t]*```/m.exec(rest);
  return close === null ? rest : rest.slice(0, close.index);
}
