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

/** Stages of training, run one after the other on one model. */
export class Curriculum {
  readonly stages: readonly Stage[];

  /** @throws TrainError TRAIN_OPTIONS for stages that contradict themselves or each other */
  constructor(stages: readonly Stage[]) {
    planStages(stages, 0);
    this.stages = [...stages];
  }

  /**
   * Trains a model through all stages and yields events. Training advances only while the events are read. Stopping
   * early (break, or `return()`) and aborting `signal` both end the run after the current step and save a checkpoint;
   * after an error the last good step is saved, too.
   *
   * Checkpoints are written to the folder `outputDir`, and by default metrics.jsonl and report.html, too. With `resume`
   * a run continues from the newest undamaged checkpoint; on the CPU the result is bit-identical to that of an
   * uninterrupted run.
   *
   * In processes started by a launcher (`diffcoder launch`, torchrun, srun) the run spans all of them: each process
   * makes the same call and reads the events to the end, and `parallel` sets how the model is distributed. Every
   * process gets the same events; only rank 0 writes to the sinks and to the folder's common files.
   *
   * @throws TrainError, DistributedError naming the process that failed, and any error of an objective, a hook or the
   *   data
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
   * {@link run} without the event stream: trains to the end, or until `signal` aborts. The sinks receive every event.
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

/** Runs planned stages over the processes that have joined. */
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
      // Checking the disk at every step would be too often when steps are short.
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
      await sinks.write(problem); // so that the other sinks, above all the terminal, show it
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

/** Shortest interval between two checks that the run's folder exists. */
const FOLDER_CHECK_MILLISECONDS = 1000;

/**
 * Recreates the run's folder if it was removed or renamed. Sinks rewrite their own files.
 *
 * @returns a warning if the folder was recreated or could not be
 * @throws TrainError TRAIN_RUN_LOCKED if another run uses the folder now; this run then writes nothing more to it
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
    const message = `${outputDir} was removed or renamed during training and cannot be recreated: ${messageOf(error)}`;
    throw new TrainError("TRAIN_RUN_LOCKED", message, { cause: error });
  }
  session.saveSoon();
  const message = `${outputDir} was removed or renamed during training; it was recreated with its metrics`;
  const rest = "earlier checkpoints are not in it, and a new one is being saved";
  return { type: "warning", globalStep: session.globalStep, code: "RUN_FOLDER", message: `${message}; ${rest}` };
}

function decoderOf(model: RunSettings["model"]): Decoder {
  return model instanceof StableDiffCoder ? model.model : model;
}

function sameDevice(a: string, b: string): boolean {
  const full = (device: string) => (device === "cuda" ? `cuda:${torch.cuda.currentDevice()}` : device);
  return full(a) === full(b);
}

/** Sharded parameters are gathered in the compute dtype: half the bytes if it is bfloat16. */
function gatherDtypeOf({ parallel, model }: RunSettings, planned: readonly PlannedStage[]) {
  if (parallel.gatherDtype !== "auto") return parallel.gatherDtype;
  const { device } = decoderOf(model);
  const isLow = planned.every(({ stage }) => resolvePrecision(stage.precision, device) === "bfloat16");
  return isLow ? "bfloat16" : "auto";
}

/** Every process needs at least one sequence in every micro-batch: each micro-batch runs collectives. */
function checkShares(planned: readonly PlannedStage[], { replicate, shard }: MeshShape): void {
  const size = replicate * shard;
  for (const { stage, info } of planned) {
    const { seqLen } = info;
    const least = size * stage.gradientAccumulationSteps;
    const tokens = Math.ceil(stage.globalBatchSize / least) * seqLen;
    if (tokens > LIMITS.microBatchTokens) {
      const size = `globalBatchSize ${stage.globalBatchSize} of ${seqLen} tokens, in ${least} micro-batches`;
      const most = `a micro-batch holds at most ${LIMITS.microBatchTokens} tokens: raise gradientAccumulationSteps`;
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
 * Saves what is not saved yet. A consumer that stopped early reads no more events, so a failure to save can only be
 * reported as an error. That error must not hide the one that ended the run.
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

/** The default sinks of a run: metrics.jsonl and report.html in its folder. */
export function defaultSinks(out: string): Sink[] {
  return [jsonl(join(out, "metrics.jsonl")), report(join(out, "report.html"))];
}

/**
 * Joins the process group of the launcher that started this process, unless it has already joined.
 *
 * @returns undefined in a process that no launcher started
 * @throws TrainError TRAIN_OPTIONS if the process group uses another backend than the run's `parallel.backend`
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
  const message = `parallel.backend is "${backend}", but the process group uses "${joined.group.backend}"`;
  const remedy = `call initProcessGroup({ backend: "${backend}" }) at the start of the program, or write the curriculum in YAML`;
  throw new TrainError("TRAIN_OPTIONS", `${message}: ${remedy}`);
}

/**
 * Makes runs bit-reproducible until the result is disposed of: sets torch.use_deterministic_algorithms, which rejects
 * operators without a deterministic implementation, and checks the CUDA libraries' settings that it depends on.
 *
 * @throws TrainError TRAIN_OPTIONS listing everything that makes the run non-deterministic
 */
export function enforceDeterminism(planned: readonly PlannedStage[], device: string): Disposable {
  const problems: string[] = [];
  for (const { stage } of planned) {
    if ("minutes" in stage.end)
      problems.push(`stage '${stage.name}' ends after a number of minutes: give steps, tokens or epochs`);
  }
  if (device.startsWith("cuda")) {
    // cuBLAS reads this variable on first use. Without it, or with another value, the algorithm depends on the free
    // memory.
    const workspace = process.env.CUBLAS_WORKSPACE_CONFIG;
    if (workspace !== ":4096:8" && workspace !== ":16:8") {
      problems.push(
        `CUBLAS_WORKSPACE_CONFIG is ${workspace ?? "not set"}: set it to :4096:8 or :16:8 before the program starts`,
      );
    }
  }
  if (problems.length > 0) {
    const list = problems.map((problem) => `  ${problem}`).join("\n");
    throw new TrainError("TRAIN_OPTIONS", `deterministic: this run is not reproducible\n${list}`);
  }
  torch.useDeterministicAlgorithms(true);
  return { [Symbol.dispose]: () => torch.useDeterministicAlgorithms(false) };
}
