import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { StableDiffCoder } from "../checkpoint/index.js";
import { explainFailure, initProcessGroup, readLaunchEnvironment, type World, world } from "../distributed/index.js";
import type { Decoder } from "../model/index.js";
import { type MeshShape, meshShape, ParallelModel, type ParallelSettings } from "../parallel/index.js";
import { messageOf } from "../torch/errors.js";
import * as torch from "../torch/index.js";
import { parseOptions, TrainError } from "./errors.js";
import type { AbortedEvent, RunDoneEvent, TrainEvent, WarningEvent } from "./events.js";
import { type PlannedStage, planStages } from "./plan.js";
import { resolvePrecision } from "./precision.js";
import { RunLock } from "./run-lock.js";
import { LIMITS, type RunOptions, type RunSettings, runOptionsSchema } from "./run-options.js";
import { requireSameRun } from "./same-run.js";
import { Session } from "./session.js";
import { jsonl } from "./sinks/jsonl.js";
import { report } from "./sinks/report.js";
import { type Sink, Sinks } from "./sinks/sink.js";
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
   * In a process that a launcher started (`diffcoder launch`, torchrun, srun) the run is that of all of them: each calls
   * this alike and reads the events to their end, and `parallel` says how the model lies over them. Events are the same in
   * all; sinks and the folder's common files belong to rank 0.
   *
   * @throws TrainError, DistributedError naming the process at fault, and whatever an objective, a hook or the data throws
   */
  async *run(options: RunOptions): AsyncGenerator<TrainEvent, void, void> {
    const settings = parseOptions("Curriculum.run", runOptionsSchema, options);
    const planned = planStages(this.stages, settings.seed, decoderOf(settings.model).config);
    const joined = await joinLaunched(settings.parallel);
    try {
      yield* run(planned, settings, joined);
    } catch (error) {
      throw joined ? await explainFailure(joined, error) : error;
    }
  }

  /**
   * {@link run} for a caller that needs no events: trains to the end, or until `signal` aborts. The sinks get every event.
   *
   * @returns the last event: "done", or "aborted" with the checkpoint that was saved
   * @throws as {@link run}
   */
  async train(options: RunOptions): Promise<RunDoneEvent | AbortedEvent> {
    let last: RunDoneEvent | AbortedEvent | undefined;
    for await (const event of this.run(options)) {
      if (event.type === "done" || event.type === "aborted") last = event;
    }
    return last as RunDoneEvent | AbortedEvent; // run() ends with one of them or throws
  }
}

/** A run of stages that are worked out, with the processes that were joined. */
async function* run(
  planned: readonly PlannedStage[],
  settings: RunSettings,
  joined: World | undefined,
): AsyncGenerator<TrainEvent, void, void> {
  const { model, outputDir, sinks: chosen, device = joined?.device } = settings;
  const restarted = joined !== undefined && joined.environment.restartCount > 0;
  settings.resume ||= restarted;
  if (joined) await requireSameRun(joined, planned, settings);
  if (outputDir !== undefined) mkdirSync(outputDir, { recursive: true });
  const isMain = joined === undefined || joined.rank === 0;
  using _deterministic = settings.deterministic ? enforceDeterminism(planned, device ?? model.device) : undefined;
  using lock = outputDir === undefined || !isMain ? undefined : await RunLock.acquire(outputDir, { restarted });
  await using sinks = new Sinks(isMain ? (chosen ?? (outputDir === undefined ? [] : defaultSinks(outputDir))) : []);
  if (device !== undefined && !sameDevice(device, model.device)) model.to({ device });
  const gatherDtype = gatherDtypeOf(settings, planned);
  checkShares(planned, meshShape(settings.parallel, joined?.size ?? 1));
  const parallel = await ParallelModel.parallelize(decoderOf(model), { ...settings.parallel, gatherDtype }, joined);
  let session: Session | undefined;
  let failed = false;
  try {
    session = new Session(planned, settings, parallel);
    let checked = Number.NEGATIVE_INFINITY;
    for await (const event of session.events()) {
      // A look at the disk with every step would be many where steps are short.
      const isDue = event.type !== "step" || performance.now() - checked > FOLDER_CHECK_MILLISECONDS;
      if (lock && isDue) {
        checked = performance.now();
        const moved = await restoreFolder(lock, settings, session, sinks);
        if (moved) {
          await sinks.write(moved);
          yield moved;
        }
      }
      const problem = await sinks.write(event);
      yield event;
      if (!problem) continue;
      await sinks.write(problem); // the others are to know, above all the terminal
      yield problem;
    }
  } catch (error) {
    failed = true;
    const cause = joined ? await explainFailure(joined, error) : error;
    await sinks.write({ type: "failed", globalStep: session?.globalStep ?? 0, message: (cause as Error).message });
    throw cause;
  } finally {
    if (session) await finish(session, sinks, failed);
    if (failed) parallel.abort();
    else await parallel.dispose();
  }
}

/** How often the run's folder is looked for while steps are short. */
const FOLDER_CHECK_MILLISECONDS = 1000;

/**
 * Makes the run's folder again if it was removed or renamed. Sinks write their files again by themselves.
 *
 * @returns a warning, if it was
 * @throws TrainError TRAIN_RUN_LOCKED where another run has the folder by now, in which nothing more is written then
 */
async function restoreFolder(
  lock: RunLock,
  { outputDir }: RunSettings,
  session: Session,
  sinks: Sinks,
): Promise<WarningEvent | undefined> {
  if (lock.isInPlace) return undefined;
  try {
    await lock.restore();
  } catch (error) {
    session.abandonFolder();
    sinks.abandon();
    const message = `${outputDir} was removed or renamed while training, and cannot be made again: ${messageOf(error)}`;
    throw new TrainError("TRAIN_RUN_LOCKED", message, { cause: error });
  }
  session.saveSoon();
  const message = `${outputDir} was removed or renamed while training: it is made again, with its metrics`;
  const rest = "checkpoints of before are not in it; another one is saved now";
  return { type: "warning", globalStep: session.globalStep, code: "RUN_FOLDER", message: `${message}; ${rest}` };
}

function decoderOf(model: RunSettings["model"]): Decoder {
  return model instanceof StableDiffCoder ? model.model : model;
}

function sameDevice(a: string, b: string): boolean {
  const full = (device: string) => (device === "cuda" ? `cuda:${torch.cuda.currentDevice()}` : device);
  return full(a) === full(b);
}

/** Sharded parameters cross as what they are computed in: half the bytes where that is bfloat16. */
function gatherDtypeOf({ parallel, model }: RunSettings, planned: readonly PlannedStage[]) {
  if (parallel.gatherDtype !== "auto") return parallel.gatherDtype;
  const { device } = decoderOf(model);
  const isLow = planned.every(({ stage }) => resolvePrecision(stage.precision, device) === "bfloat16");
  return isLow ? "bfloat16" : "auto";
}

/** Every process must have something to do in every micro-batch: they meet in each. */
function checkShares(planned: readonly PlannedStage[], { replicate, shard }: MeshShape): void {
  const size = replicate * shard;
  for (const { stage, info } of planned) {
    const { seqLen } = info;
    const least = size * stage.gradientAccumulationSteps;
    const tokens = Math.ceil(stage.globalBatchSize / least) * seqLen;
    if (tokens > LIMITS.microBatchTokens) {
      const size = `globalBatchSize ${stage.globalBatchSize} of ${seqLen} tokens, in ${least} micro-batches`;
      const most = `at most ${LIMITS.microBatchTokens} tokens a micro-batch are possible: raise gradientAccumulationSteps`;
      throw new TrainError("TRAIN_OPTIONS", `stage '${stage.name}': ${size}, is ${tokens} tokens each; ${most}`);
    }
    if (stage.globalBatchSize >= least) continue;
    const message = `stage '${stage.name}': globalBatchSize ${stage.globalBatchSize} is less than ${size} data-parallel processes`;
    throw new TrainError(
      "TRAIN_OPTIONS",
      `${message} times gradientAccumulationSteps ${stage.gradientAccumulationSteps}; give at least ${least}`,
    );
  }
}

/**
 * Saves what is left to save. Whoever stopped early reads no more events: an error is the only way to tell of a failure.
 * It must not hide the one that ended the run.
 */
async function finish(session: Session, sinks: Sinks, failed: boolean): Promise<void> {
  try {
    const events = await session.close({ failed });
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

/**
 * Joins the processes that a launcher started with this one, unless that was done.
 *
 * @returns undefined in a process of its own
 * @throws TrainError TRAIN_OPTIONS where they joined with another backend than the run wants
 */
export async function joinLaunched({
  backend,
  timeouts,
}: Pick<ParallelSettings, "backend" | "timeouts">): Promise<World | undefined> {
  const joined = world();
  if (!joined) {
    const environment = readLaunchEnvironment();
    return environment && (await initProcessGroup({ backend, timeout: timeouts.init, environment }));
  }
  if (backend === undefined || backend === joined.group.backend) return joined;
  const message = `parallel.backend is "${backend}", but the processes joined with "${joined.group.backend}"`;
  const remedy = `call initProcessGroup({ backend: "${backend}" }) before anything else, or write the curriculum in YAML`;
  throw new TrainError("TRAIN_OPTIONS", `${message}: ${remedy}`);
}

/**
 * Makes a run one that repeats bit for bit, until it is disposed of: torch.use_deterministic_algorithms, which refuses
 * operators that have no such form, and the settings of the CUDA libraries that it depends on.
 *
 * @throws TrainError TRAIN_OPTIONS naming everything about the run that could not be repeated
 */
export function enforceDeterminism(planned: readonly PlannedStage[], device: string): Disposable {
  const problems: string[] = [];
  for (const { stage } of planned) {
    if ("minutes" in stage.end) problems.push(`stage '${stage.name}' ends by the clock: give steps, tokens or epochs`);
  }
  if (device.startsWith("cuda")) {
    // cuBLAS reads it when it is first used; another value, or none, lets it choose by what memory is free.
    const workspace = process.env.CUBLAS_WORKSPACE_CONFIG;
    if (workspace !== ":4096:8" && workspace !== ":16:8") {
      problems.push(
        `CUBLAS_WORKSPACE_CONFIG is ${workspace ?? "not set"}: start the program with :4096:8 or :16:8 in it`,
      );
    }
  }
  if (problems.length > 0) {
    const list = problems.map((problem) => `  ${problem}`).join("\n");
    throw new TrainError("TRAIN_OPTIONS", `deterministic: this run could not be repeated\n${list}`);
  }
  torch.useDeterministicAlgorithms(true);
  return { [Symbol.dispose]: () => torch.useDeterministicAlgorithms(false) };
}
