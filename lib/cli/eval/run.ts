import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import colors from "picocolors";
import { Engine } from "../../engine/index.js";
import {
  type AnswerGenerator,
  CanonicalGenerator,
  EngineGenerator,
  type Estimate,
  type EvalProgress,
  type EvalSummary,
  evaluate,
  type RunHooks,
  rescore,
  ServerGenerator,
  TASKS,
  type Task,
  taskNamed,
} from "../../eval/index.js";
import type { EvalCommandOptions } from "../command-options.js";
import { CliError } from "../errors.js";
import { ProgressBar } from "../progress-bar.js";
import { interruptible, shownPath } from "../terminal.js";

/** Evaluates a model and shows its scores; without a benchmark, lists them. */
export async function runEval(benchmark: string | undefined, options: EvalCommandOptions): Promise<void> {
  if (benchmark === undefined) {
    process.stdout.write(listed());
    return;
  }
  const task = taskNamed(benchmark);
  const { model, run } = options;
  await interruptible("Stopping. Run the same command again to continue.", async (signal) => {
    using bars = new PhaseBars();
    const hooks: RunHooks = { signal, onProgress: (progress) => bars.show(progress) };
    const { folder, summary } = model.rescore
      ? { folder: model.rescore, summary: await rescoreFolder(task, model.rescore, run, hooks) }
      : await evaluateModel(task, options, hooks);
    bars.stop();
    process.stdout.write(run.json ? `${JSON.stringify(summary, null, 2)}\n` : shown(task, summary, folder));
    if (model.canonical && summary.counts.failed + summary.counts.timeout > 0) process.exitCode = 1;
  });
}

function rescoreFolder(task: Task, folder: string, run: EvalCommandOptions["run"], hooks: RunHooks) {
  const { data, k, concurrency, memory, python, allowUnsandboxed } = run;
  return rescore(task, folder, { data, k, concurrency, memory, python, allowUnsandboxed }, hooks);
}

async function evaluateModel(task: Task, { model, run }: EvalCommandOptions, hooks: RunHooks) {
  const { json, outputDir, ...settings } = run;
  const evaluateWith = async (generator: AnswerGenerator, name: string) => {
    const folder = outputDir ?? join("runs", "eval", `${task.name}-${run.prompt}-${name.replace(/[^\w.+-]+/g, "-")}`);
    return { folder, summary: await evaluate(task, generator, { ...settings, outputDir: folder }, hooks) };
  };
  if (model.canonical) return evaluateWith(new CanonicalGenerator(), "canonical");
  if (model.server !== undefined) {
    const { server: url, serverModel, apiKey, serverConcurrency: concurrency, sendStop } = model;
    const generator = new ServerGenerator({ url, model: serverModel, apiKey, concurrency, sendStop }, run);
    const { name } = await generator.info(hooks.signal);
    return evaluateWith(generator, name);
  }
  if (model.model === undefined)
    throw new CliError("give --model FOLDER, --server URL, --rescore FOLDER or --canonical");
  if (!existsSync(model.model)) throw new CliError(`--model ${model.model}: there is no such folder`);
  const { device, dtype, maxNumSeqs } = model;
  await using engine = await Engine.create({ model: model.model, device, dtype, maxNumSeqs });
  return await evaluateWith(new EngineGenerator(engine, run, model.model), basename(resolve(model.model)));
}

/** Shows the two phases of a run, one bar after the other. */
class PhaseBars implements Disposable {
  #bar: ProgressBar | undefined;
  #phase: EvalProgress["phase"] | undefined;

  show({ phase, done, total }: EvalProgress): void {
    if (phase !== this.#phase) {
      this.stop();
      this.#phase = phase;
      this.#bar = new ProgressBar(phase === "generate" ? "generating" : "running", { plainLines: true });
    }
    this.#bar?.update(done, total, `${done}/${total}`);
  }

  stop(): void {
    this.#bar?.stop();
  }

  [Symbol.dispose](): void {
    this.stop();
  }
}

function listed(): string {
  const width = Math.max(...TASKS.map(({ name }) => name.length));
  const lines = TASKS.map(({ name, title, stop, files }) => {
    const prompts = `prompts: ${Object.keys(stop).join(", ")}`;
    return `${name.padEnd(width)}  ${title}\n${" ".repeat(width)}  ${colors.dim(`${prompts}; file: ${files.join(" or ")}`)}`;
  });
  return `${lines.join("\n")}\n`;
}

function shown(task: Task, summary: EvalSummary, folder: string): string {
  const { passAt, partsPassAt1, counts, notRun, isolated, limit, problems } = summary;
  const rows = [
    ...Object.entries(passAt).map(([k, estimate]) => [`pass@${k}`, percent(estimate)]),
    ...Object.entries(partsPassAt1).map(([part, estimate]) => [`pass@1, ${part} tests`, percent(estimate)]),
    [
      "answers",
      `${counts.passed} passed, ${counts.failed} failed, ${counts.timeout} timed out, ${counts.notRun} not run`,
    ],
    ...(counts.promptTooLong > 0 ? [["no room", `${counts.promptTooLong} prompts fill the model's context`]] : []),
    ...notRun.map((why) => ["not run", why]),
    ["problems", `${problems}${limit === undefined ? "" : " (--limit: not the benchmark's score)"}`],
    ...(isolated ? [] : [["sandbox", "none (--allow-unsandboxed)"]]),
    ["results", shownPath(folder)],
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  const lines = rows.map(([name, text]) => `${name.padEnd(width)}  ${text}`);
  return `${colors.bold(task.title)}  ${summary.task}  ${summary.model.name}\n${lines.join("\n")}\n`;
}

/** "61.6 % (95 %: 54.3 to 68.9)" */
function percent({ value, low, high }: Estimate): string {
  const part = (share: number) => (100 * share).toFixed(1);
  return `${part(value)} %  (95 %: ${part(low)} to ${part(high)})`;
}
