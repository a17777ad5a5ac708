import { setTimeout as sleep } from "node:timers/promises";
import { compact, duration, number } from "../../train/format.js";
import { printable } from "../canvas.js";
import type { WatchOptions } from "../command-options.js";
import { drawFrame, firstLine, type View } from "./frame.js";
import { FullScreen, type Key, readKeys } from "./full-screen.js";
import { metricNames, SMOOTHING } from "./metric-view.js";
import { WatchedRun } from "./watched-run.js";

/** Shows runs until a key stops the display; without a terminal, until all runs have ended. */
export async function watch(paths: readonly string[], options: WatchOptions): Promise<void> {
  const runs = paths.map((path) => new WatchedRun(path));
  if (options.once) await printOnce(runs);
  else if (process.stdout.isTTY) await new Dashboard(runs, options.interval ?? 1).show();
  else await printLines(runs, options.interval ?? 5);
}

async function readAll(runs: readonly WatchedRun[]): Promise<void> {
  for (const run of runs) while (await run.read());
}

async function printOnce(runs: readonly WatchedRun[]): Promise<void> {
  await readAll(runs);
  const { columns = Number(process.env.COLUMNS) || 100, rows = Number(process.env.LINES) || 32 } = process.stdout;
  runs.forEach((run, i) => {
    const frame = drawFrame(run, {
      columns,
      rows: rows - 1,
      view: firstView(),
      now: Date.now(),
      place: { index: i + 1, of: runs.length },
      keys: false,
    });
    process.stdout.write(`${frame.map((line) => line.trimEnd()).join("\n")}\n`);
  });
}

/** Prints a line for each run with new events, periodically. */
async function printLines(runs: readonly WatchedRun[], interval: number): Promise<void> {
  const said = new Map<WatchedRun, string>();
  for (;;) {
    await readAll(runs);
    for (const run of runs) {
      const line = statusLine(run);
      if (said.get(run) !== line) process.stdout.write(`${line}\n`);
      said.set(run, line);
    }
    if (runs.every((run) => run.isOver)) return;
    await sleep(interval * 1000);
  }
}

function statusLine(run: WatchedRun): string {
  const { step, report, skipped } = run;
  const name = printable(run.name);
  if (run.waiting) return `${name}  waiting for its log`;
  const ends: Record<string, string> = {
    done: "finished",
    stopped: "stopped",
    failed: `failed: ${firstLine(report.message ?? "")}`,
  };
  if (run.isOver) {
    return `${name}  ${ends[report.state]}, ${report.steps} steps, ${compact(report.tokens)} tokens, ${duration(report.elapsed)}`;
  }
  if (!step) return `${name}  started`;
  const { loss, lr, grad_norm: norm, communication_share: share } = step.metrics;
  const parts = [
    `${step.name} ${step.step}/${step.steps}`,
    loss === undefined ? "no loss" : `loss ${loss.toFixed(3)}`,
    `${duration(run.secondsLeft ?? 0)} left`,
    `${compact(run.tokensPerSecond ?? 0)} tokens/s`,
    ...(lr === undefined ? [] : [`lr ${number(lr)}`]),
    ...(norm === undefined ? [] : [`grad norm ${number(norm)}`]),
    ...(share === undefined ? [] : [`${(100 * share).toFixed(0)} % communication`]),
    ...(skipped.length === 0 ? [] : [`${skipped.length} skipped`]),
  ];
  return `${name}  ${parts.join("  ")}`;
}

function firstView(): View {
  return { metric: "loss", smoothing: 1, log: false };
}

/** The dashboard: screen, keys and refresh timer. */
class Dashboard {
  readonly #runs: readonly WatchedRun[];
  readonly #interval: number;
  readonly #view = firstView();
  #shown = 0;
  #end: ((code: number) => void) | undefined;

  constructor(runs: readonly WatchedRun[], interval: number) {
    this.#runs = runs;
    this.#interval = interval;
  }

  /** Runs until a key or a signal ends it. */
  async show(): Promise<void> {
    const { stdin, stdout } = process;
    using screen = new FullScreen(stdout, stdin.isTTY ? stdin : undefined);
    const draw = () => this.#draw(screen);
    const ended = new Promise<number>((resolve) => {
      this.#end = resolve;
    });
    const stop = new AbortController();
    const onSignal = (_: NodeJS.Signals, code: number) => this.#end?.(128 + code);
    const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
    for (const signal of signals) process.on(signal, onSignal);
    stdout.on("resize", draw);
    screen.onKeys((data) => {
      for (const key of readKeys(data.toString())) {
        if (key === "suspend") screen.suspend(draw);
        else this.#press(key);
      }
      draw();
    });
    draw();
    try {
      const code = await Promise.race([ended, this.#follow(draw, stop.signal)]);
      if (code !== 0) process.exitCode = code;
    } finally {
      stop.abort();
      stdout.off("resize", draw);
      for (const signal of signals) process.off(signal, onSignal);
    }
  }

  /** Reads and draws repeatedly. A long log is drawn while it is being read. */
  async #follow(draw: () => void, signal: AbortSignal): Promise<never> {
    for (;;) {
      const more = await Promise.all(this.#runs.map((run) => run.read()));
      signal.throwIfAborted();
      draw();
      if (more.includes(true)) await new Promise((done) => setImmediate(done));
      else await sleep(this.#interval * 1000, undefined, { signal });
    }
  }

  #draw(screen: FullScreen): void {
    const { columns = 80, rows = 24 } = process.stdout;
    const options = { columns, rows, view: this.#view, now: Date.now(), keys: process.stdin.isTTY === true };
    const place = { index: this.#shown + 1, of: this.#runs.length };
    screen.draw(drawFrame(this.#runs[this.#shown], { ...options, place }));
  }

  #press(key: Exclude<Key, "suspend">): void {
    const view = this.#view;
    const turn = (index: number, by: number, length: number) => (index + by + length) % length;
    switch (key) {
      case "quit":
        this.#end?.(0);
        break;
      case "interrupt":
        this.#end?.(130);
        break;
      case "smoothing":
        view.smoothing = turn(view.smoothing, 1, SMOOTHING.length);
        break;
      case "log":
        view.log = !view.log;
        break;
      case "next":
      case "previous": {
        const names = metricNames(this.#runs[this.#shown].report);
        if (names.length === 0) break;
        const at = Math.max(0, names.indexOf(view.metric));
        view.metric = names[turn(at, key === "next" ? 1 : -1, names.length)];
        break;
      }
      case "next-run":
      case "previous-run":
        this.#shown = turn(this.#shown, key === "next-run" ? 1 : -1, this.#runs.length);
        break;
    }
  }
}
