import { join } from "node:path";
import { isStepCheckpoint } from "../../checkpoint/layout.js";
import type { CheckpointEvent, RunInfo, SampleEvent, StepEvent } from "../events.js";
import { groupedName } from "../metrics.js";
import type { Sink } from "./sink.js";
import { runSettings } from "./summary.js";
import { type EventContent, EventFile } from "./tensorboard/event-file.js";

/** With more ranks than this, no curves per rank are written: they would crowd out all others. */
const MAX_RANKS = 32;

/**
 * Event files that TensorBoard reads: `tensorboard --logdir FOLDER`. Every metric is a curve, in the groups train,
 * diffusion, speed, memory, distributed and evaluation; samples, stages and warnings are texts, and the settings of the
 * run are shown in the tab HParams. A process that resumes a run writes a new file, which supersedes the steps after
 * its checkpoint.
 *
 * @param folder a separate one for each run; default: `tensorboard` in the run's folder
 */
export function tensorboard(folder?: string): Sink {
  let file: EventFile | undefined;
  let name = folder ?? "TensorBoard";

  const begin = (globalStep: number, run: RunInfo, resumed: boolean) => {
    const where = folder ?? (run.outputDir === undefined ? undefined : join(run.outputDir, "tensorboard"));
    if (where === undefined) throw new Error("the run has no folder: pass one, tensorboard(FOLDER)");
    file?.close();
    file = new EventFile(where);
    name = where;
    file.append(0, { kind: "version" });
    file.append(resumed ? globalStep + 1 : 0, { kind: "start" });
    const settings = runSettings(run);
    const startedAt = Date.parse(run.startedAt) / 1000 || Date.now() / 1000;
    const hparams = { kind: "hparams", values: settings, name: run.outputDir ?? where, startedAt } as const;
    if (!resumed || file.isFirst) file.append(0, hparams);
    file.append(globalStep, { kind: "text", tag: "run", text: table(settings) });
  };

  return {
    get name() {
      return name;
    },
    write(event) {
      if (event.type === "start") begin(event.globalStep, event.run, event.resumed !== undefined);
      if (!file) return;
      const put = (...contents: EventContent[]) => file?.append(event.globalStep, ...contents);
      switch (event.type) {
        case "stage-start":
          put({ kind: "text", tag: "stage", text: table({ ...event.info }) });
          break;
        case "step":
          put({ kind: "scalars", values: scalarsOf(event) });
          break;
        case "evaluation":
          put({ kind: "scalars", values: renamed(event.metrics, (metric) => `evaluation/${metric}`) });
          break;
        case "sample":
          put(...samplesOf(event));
          break;
        case "warning":
          put({ kind: "text", tag: "warnings", text: `${event.code}: ${event.message}` });
          break;
        case "checkpoint":
          put(...checkpointOf(event));
          file.flush();
          break;
        case "done":
        case "aborted":
        case "failed": {
          const status = event.type === "failed" ? "failure" : "success";
          if (event.type === "failed") put({ kind: "text", tag: "warnings", text: `failed: ${event.message}` });
          put({ kind: "session-end", status, endedAt: Date.now() / 1000 });
          file.flush();
          break;
        }
        case "start":
        case "stage-end":
          break;
      }
    },
    close() {
      file?.close();
      file = undefined;
    },
  };
}

function scalarsOf({ metrics, stage, tokens, elapsed, skipped, perRank = [] }: StepEvent): Record<string, number> {
  const values = renamed(metrics, groupedName);
  values["train/stage"] = stage;
  values["train/tokens"] = tokens;
  values["train/elapsed"] = elapsed;
  if (skipped !== undefined) values["train/skipped"] = 1;
  if (perRank.length > MAX_RANKS) return values;
  for (const { rank, seconds, dataSeconds, rss } of perRank) {
    values[`ranks/step_seconds/${rank}`] = seconds;
    values[`ranks/data_seconds/${rank}`] = dataSeconds;
    values[`ranks/rss/${rank}`] = rss;
  }
  return values;
}

function renamed(metrics: Readonly<Record<string, number>>, rename: (name: string) => string): Record<string, number> {
  const entries = Object.entries(metrics).filter(([, value]) => Number.isFinite(value));
  return Object.fromEntries(entries.map(([name, value]) => [rename(name), value]));
}

function samplesOf({ samples }: SampleEvent): EventContent[] {
  return samples.map(({ prompt = "", text, note }, index) => {
    const shown = [fenced(prompt + text), ...(note ? [note] : [])].join("\n\n");
    return { kind: "text", tag: `samples/${index}`, text: shown };
  });
}

function checkpointOf({ checkpoint, path, seconds }: CheckpointEvent): EventContent[] {
  const isNamed = !isStepCheckpoint(checkpoint);
  return [
    { kind: "scalars", values: { "checkpoint/seconds": seconds } },
    ...(isNamed ? [{ kind: "text" as const, tag: "checkpoints", text: `${checkpoint}: ${path}` }] : []),
  ];
}

/** A Markdown code block with a text, whatever it contains. */
function fenced(text: string): string {
  const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map(({ length }) => length));
  const fence = "`".repeat(longest + 1);
  return `${fence}\n${text}\n${fence}`;
}

function table(values: Readonly<Record<string, unknown>>): string {
  const rows = Object.entries(values).map(([key, value]) => `| ${key} | ${String(value).replaceAll("|", "\\|")} |`);
  return ["| | |", "|-|-|", ...rows].join("\n");
}
