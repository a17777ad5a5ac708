import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { Decoder } from "../model/index.js";
import { TrainError } from "./errors.js";
import type { FailedEvent, TrainEvent } from "./events.js";
import { parseOptions } from "./options.js";
import { planStages } from "./plan.js";
import { RunLock } from "./run-lock.js";
import { type RunOptions, runOptionsSchema } from "./run-options.js";
import { Session } from "./session.js";
import { jsonl } from "./sinks/jsonl.js";
import { report } from "./sinks/report.js";
import type { Sink } from "./sinks/sink.js";
import type { Stage } from "./stage.js";

/** Stages that a model goes through one after the other. */
export class Curriculum {
  readonly stages: readonly Stage[];

  /** @throws TrainError TRAIN_OPTIONS for stages that contradict themselves or each other */
  constructor(stages: readonly Stage[]) {
    planStages(stages, 0);
    this.stages = [...stages];
  }

  /**
   * Trains a model through all stages and tells what happens as it goes. The events must be read, for training goes on
   * as they are. Stopping early (break, or `return()`) and aborting `signal` both end after the step at hand and save a
   * checkpoint; an error saves the last good step, too.
   *
   * The folder `out` gets checkpoints, and by default metrics.jsonl and report.html. With `resume` a run goes on from the
   * newest whole checkpoint, on the CPU bit for bit as if it had never stopped.
   *
   * @throws TrainError, and whatever an objective, a hook or the data throws
   */
  async *run(options: RunOptions): AsyncGenerator<TrainEvent, void, void> {
    const settings = parseOptions("Curriculum.run", runOptionsSchema, options);
    const { model, out, seed } = settings;
    const planned = planStages(this.stages, seed, model instanceof Decoder ? model.config : model.model.config);
    if (out !== undefined) mkdirSync(out, { recursive: true });
    using _lock = out === undefined ? undefined : RunLock.acquire(out);
    await using sinks = new Sinks(settings.sinks ?? (out === undefined ? [] : defaultSinks(out)));
    const session = new Session(planned, settings);
    let failed = false;
    try {
      for await (const event of session.events()) {
        const problem = await sinks.write(event);
        yield event;
        if (problem) yield problem;
      }
    } catch (error) {
      failed = true;
      await sinks.write({ type: "failed", globalStep: session.globalStep, message: (error as Error).message });
      throw error;
    } finally {
      await finish(session, sinks, failed);
    }
  }
}

/**
 * Saves what is left to save. Whoever stopped early reads no more events: an error is the only way to tell of a failure.
 * It must not hide the one that ended the run.
 */
async function finish(session: Session, sinks: Sinks, failed: boolean): Promise<void> {
  try {
    const events = await session.close();
    for (const event of events) await sinks.write(event);
    const unsaved = events.find((event) => event.type === "warning");
    if (unsaved) throw new TrainError("TRAIN_CHECKPOINT_WRITE", unsaved.message);
  } catch (error) {
    if (!failed) throw error;
  }
}

/** What a run writes beside its checkpoints: metrics.jsonl and report.html. */
export function defaultSinks(out: string): Sink[] {
  return [jsonl(join(out, "metrics.jsonl")), report(join(out, "report.html"))];
}

/** Hands events to sinks. One that fails is no reason to lose a run. */
class Sinks implements AsyncDisposable {
  readonly #sinks: readonly Sink[];
  readonly #warned = new Set<Sink>();

  constructor(sinks: readonly Sink[]) {
    this.#sinks = sinks;
  }

  /** @returns a warning when a sink fails for the first time */
  async write(event: TrainEvent | FailedEvent): Promise<TrainEvent | undefined> {
    let warning: TrainEvent | undefined;
    for (const sink of this.#sinks) {
      try {
        await sink.write(event);
      } catch (error) {
        if (this.#warned.has(sink)) continue;
        this.#warned.add(sink);
        const message = `cannot write to ${sink.name}: ${(error as Error).message}`;
        warning = { type: "warning", globalStep: event.globalStep, code: "SINK", message };
      }
    }
    return warning;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const sink of this.#sinks) {
      try {
        await sink.close?.();
      } catch {
        // It was warned about when it failed first; at the end there is nobody left to tell.
      }
    }
  }
}
