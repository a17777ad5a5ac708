import type { Writable } from "node:stream";
import { MultiBar, type SingleBar } from "cli-progress";
import colors from "picocolors";
import { isStepCheckpoint } from "../../checkpoint/layout.js";
import type { FailedEvent, StageInfo, StepEvent, TrainEvent } from "../events.js";
import { compact, duration, number } from "../format.js";
import type { Sink } from "./sink.js";
import { meshText, Pace } from "./summary.js";

export interface TerminalOptions {
  /** Default: standard error, so that standard output has only the program's own output. */
  stream?: Writable & { isTTY?: boolean; columns?: number };
  /** Minimum seconds between two lines if the stream is not a terminal. Default 5. */
  interval?: number;
}

/** Relative delay from which a rank is shown as a straggler. */
const STRAGGLER = 0.1;

/** Shows progress: on a terminal a bar with loss, rate and time left; elsewhere one line every few seconds. */
export function terminal(options: TerminalOptions = {}): Sink {
  const { stream = process.stderr, interval = 5 } = options;
  const isTTY = stream.isTTY === true;
  const pace = new Pace();
  let stages: StageInfo[] = [];
  let bars: MultiBar | undefined;
  let bar: SingleBar | undefined;
  let lastLine = Number.NEGATIVE_INFINITY;
  let lastStep: StepEvent | undefined;

  const print = (text: string) => {
    if (bars) bars.log(`${text}\n`);
    else stream.write(`${text}\n`);
  };
  const stopBars = () => {
    bars?.update(); // writes the logged lines, which stop() would drop
    bars?.stop();
    bars = undefined;
    bar = undefined;
  };
  const stepLine = (event: StepEvent) => {
    const { loss, u_max: uMax, lr } = event.metrics;
    // The most important parts come first: a narrow terminal cuts the rest.
    const parts = [
      loss === undefined ? "no loss" : `loss ${loss.toFixed(3)}`,
      `${duration(pace.secondsLeft(event, stages))} left`,
      `${compact(pace.tokensPerSecond)} tokens/s`,
      `lr ${number(lr ?? 0)}`,
      ...(uMax !== undefined && uMax < 1 ? [`u_max ${uMax.toFixed(3)}`] : []),
      ...rankParts(event.metrics),
    ];
    return parts.join("  ");
  };
  const showStep = (event: StepEvent) => {
    pace.add(event);
    lastStep = event;
    if (bar) {
      bar.setTotal(event.steps);
      bar.update(event.step, { line: stepLine(event) });
      return;
    }
    const now = performance.now();
    if (now - lastLine < interval * 1000) return;
    lastLine = now;
    print(`${event.name}  step ${event.step}/${event.steps}  ${stepLine(event)}`);
  };
  const startStage = (index: number, facts: StageInfo, step: number) => {
    pace.reset();
    lastLine = Number.NEGATIVE_INFINITY;
    const { name, kind, globalBatchSize, seqLen } = facts;
    if (!isTTY) {
      const steps = facts.steps === null ? "" : ` ${facts.steps} steps of`;
      print(`stage ${index + 1}/${stages.length}: ${name} (${kind}),${steps} ${globalBatchSize} x ${seqLen} tokens`);
      return;
    }
    bars = new MultiBar(
      {
        format: `${colors.bold("{name}")} ${colors.cyan("{bar}")} {percentage}%  {value}/{total}  {line}`,
        barCompleteChar: "━",
        barIncompleteChar: "─",
        barsize: (stream.columns ?? 80) < 110 ? 10 : 24,
        hideCursor: true,
        forceRedraw: true, // an unchanged bar must still move below a logged line
        gracefulExit: false, // signals belong to the program
        autopadding: true,
        fps: 8,
        stream,
      },
      undefined,
    );
    const width = Math.max(...stages.map((stage) => stage.name.length));
    bar = bars.create(facts.steps ?? Math.max(1, step), step, { name: name.padEnd(width), line: "" });
  };

  return {
    name: "the terminal",
    write(event: TrainEvent | FailedEvent) {
      switch (event.type) {
        case "start": {
          ({ stages } = event.run);
          const { model, parameters, device, parallel } = event.run;
          const ranks = parallel ? `: ${meshText(parallel)}` : "";
          print(`${compact(parameters)} parameters (${model}) on ${device}${ranks}`);
          if (event.resumed) print(`resuming from ${event.resumed.checkpoint}, step ${event.globalStep}`);
          break;
        }
        case "stage-start":
          startStage(event.stage, event.info, event.step);
          break;
        case "step":
          showStep(event);
          break;
        case "evaluation": {
          const entries = Object.entries(event.metrics).map(([key, value]) => `${key} ${number(value)}`);
          print(colors.blue(`${event.name} step ${event.step}: ${entries.join(", ")}`));
          break;
        }
        case "warning":
          print(colors.yellow(`warning: ${event.message}`));
          break;
        case "checkpoint":
          if (!isStepCheckpoint(event.checkpoint)) print(`saved ${event.path}`);
          break;
        case "stage-end": {
          stopBars();
          const loss = lastStep?.metrics.loss;
          const tokens = `${compact(event.tokens)} tokens in ${duration(event.seconds)}`;
          if (!isTTY) print(`${event.name} done: ${tokens}${loss === undefined ? "" : `, loss ${loss.toFixed(3)}`}`);
          break;
        }
        case "aborted":
          stopBars();
          print(`stopped at step ${event.globalStep}${event.checkpoint ? `, saved in ${event.checkpoint}` : ""}`);
          break;
        case "done":
          stopBars();
          print(`${compact(event.tokens)} tokens in ${duration(event.elapsed)} of training`);
          break;
        case "failed":
          stopBars();
          break;
        case "sample":
          break;
      }
    },
    close: stopBars,
  };
}

/** Communication share and straggler, in a run of several ranks. */
function rankParts({ communication_share: share, straggler = 0, slowest_rank: rank }: StepEvent["metrics"]): string[] {
  return [
    ...(share !== undefined ? [`${(100 * share).toFixed(0)} % communication`] : []),
    ...(straggler > STRAGGLER && rank !== undefined ? [`rank ${rank} ${(100 * straggler).toFixed(0)} % behind`] : []),
  ];
}
