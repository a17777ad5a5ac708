import { TrainError } from "../errors.js";
import type { FailedEvent, TrainEvent } from "../events.js";
import { groupedName } from "../metrics.js";
import type { Sink } from "./sink.js";
import { runSettings } from "./summary.js";
import { OfflineRun } from "./wandb/offline-run.js";
import { findSdk, type WandbMode, type WandbOptions, type WandbRun } from "./wandb/options.js";
import { WorkerRun } from "./wandb/worker-run.js";

/** Training waits so long, once, to hear whether the key and the network are good. */
const START_SECONDS = 10;

/**
 * Sends metrics, settings, samples, checkpoints and warnings to Weights & Biases.
 *
 * Given a run, it is used as it is and finished with the training. Given options, a run is made with `@wandb/sdk`, which
 * works in a thread of its own, for its network errors end the thread they happen in and its signal handlers the process:
 * whatever happens there is a warning here. The key is read from WANDB_API_KEY or .netrc. A run that goes on from a
 * checkpoint is a new run at W&B, because the SDK cannot go on with one; its settings name the step.
 *
 * @throws TrainError TRAIN_OPTIONS where `@wandb/sdk` is needed and not installed, or for an unknown mode
 */
export function wandb(given: WandbOptions | WandbRun): Sink {
  const isRun = "log" in given;
  const mode = isRun ? "online" : modeOf(given);
  const sdk = isRun || mode !== "online" ? undefined : findSdk(given.sdk);
  let run: WandbRun | undefined = isRun ? given : undefined;
  let waiting: { step: number; data: Record<string, unknown> } | undefined;
  let exitCode = 0;

  /** W&B keeps one row for a step and refuses earlier ones: all that a step has to say is sent at once. */
  const flush = async () => {
    if (!waiting) return;
    const { step, data } = waiting;
    waiting = undefined;
    await run?.log(data, { step });
  };
  const log = async (step: number, data: Record<string, unknown>) => {
    if (waiting !== undefined && waiting.step !== step) await flush();
    waiting = { step, data: { ...waiting?.data, ...data } };
  };
  const summarise = async (step: number, values: Record<string, unknown>) => {
    if (run?.summary) await run.summary.update(values);
    else await log(step, values);
  };

  return {
    name: "Weights & Biases",
    async write(event: TrainEvent | FailedEvent) {
      const { globalStep } = event;
      switch (event.type) {
        case "start": {
          const config = { ...runSettings(event.run), ...(event.resumed && { resumed_at_step: globalStep }) };
          if (isRun) await given.config?.update(config);
          else if (mode === "offline") {
            const offline = new OfflineRun({ ...given, config });
            run = offline;
            given.onFolder?.(offline.folder);
          } else if (mode === "online" && !run) {
            const worker = new WorkerRun(sdk as string, { ...given, config });
            run = worker;
            await worker.ready(START_SECONDS);
          }
          break;
        }
        case "step": {
          const { metrics, stage, name, tokens, elapsed, skipped } = event;
          const progress = { "train/stage": stage, "train/stage_name": name, "train/tokens": tokens };
          const cause = skipped === undefined ? {} : { "train/skipped": skipped };
          await log(globalStep, { ...grouped(metrics), ...progress, "train/elapsed": elapsed, ...cause });
          break;
        }
        case "evaluation":
          await log(globalStep, prefixed("evaluation", event.metrics));
          break;
        case "sample": {
          const texts = event.samples.map(({ prompt = "", text, note }) => [prompt + text, note].filter(Boolean));
          await log(
            globalStep,
            prefixed(
              "samples",
              texts.map((parts) => parts.join("\n\n")),
            ),
          );
          break;
        }
        case "checkpoint":
          await summarise(globalStep, {
            "checkpoint/name": event.checkpoint,
            "checkpoint/path": event.path,
            "checkpoint/step": globalStep,
            "checkpoint/seconds": event.seconds,
          });
          break;
        case "warning":
          await log(globalStep, { "warnings/code": event.code, "warnings/message": event.message });
          break;
        case "aborted":
        case "done":
        case "failed":
          if (event.type === "failed") exitCode = 1;
          await summarise(globalStep, {
            "run/state": event.type,
            ...(event.type === "failed" && { "run/message": event.message }),
          });
          break;
        case "stage-start":
        case "stage-end":
          break;
      }
    },
    async close() {
      try {
        await flush();
      } finally {
        await run?.finish(exitCode);
        run = undefined;
      }
    },
  };
}

/** W&B's own names of the modes, "dryrun" being an old one of "offline". */
function modeOf({ mode }: WandbOptions): WandbMode {
  const named = mode ?? (process.env.WANDB_MODE || "online");
  if (named === "dryrun") return "offline";
  if (named === "online" || named === "offline" || named === "disabled") return named;
  const where = mode === undefined ? "WANDB_MODE" : "wandb: mode";
  throw new TrainError(
    "TRAIN_OPTIONS",
    `${where} is ${JSON.stringify(named)}, allowed: "online", "offline", "disabled"`,
  );
}

function grouped(metrics: Readonly<Record<string, number>>): Record<string, number> {
  return Object.fromEntries(Object.entries(metrics).map(([name, value]) => [groupedName(name), value]));
}

function prefixed(group: string, values: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [`${group}/${name}`, value]));
}
