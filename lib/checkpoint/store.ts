import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { parseJsonText } from "../base/json-text.js";
import { readTextFile } from "../base/regular-file.js";
import type { ShardReport } from "./commit.js";
import { type CheckpointContent, type CheckpointWorld, planFiles } from "./content.js";
import { CheckpointError } from "./errors.js";
import { HostMemory } from "./host-memory.js";
import { TRAINER_FILE } from "./layout.js";
import { type DamageOptions, findDamage, readManifest } from "./manifest.js";
import { PendingCheckpoint } from "./pending.js";
import { cannotSave, finishReplacement } from "./staging.js";
import { type Progress, type RunFingerprint, trainerSchema } from "./trainer-file.js";
import { commitInThread } from "./writer.js";

/** A checkpoint with a readable trainer.json. Its other files may be damaged. */
export interface FoundCheckpoint {
  name: string;
  path: string;
  savedAt: string;
  versions: Record<string, string>;
  /** Number of processes that wrote it. */
  worldSize: number;
  progress: Progress;
  facts: RunFingerprint;
  optimizerStep: number | null;
}

/** A folder that should be a checkpoint but cannot be read as one, and the reason. */
export interface UnreadableCheckpoint {
  name: string;
  path: string;
  problem: string;
}

/**
 * The checkpoints of a run, RUN/checkpoints/NAME. A checkpoint of a single process is a folder in Hugging Face layout
 * (config.json, model.safetensors, tokenizer files), which `transformers` can load, plus optimizer.state, trainer.json
 * and manifest.json. Of several processes each writes its slices to its own shard. Folders are created atomically.
 *
 * A save copies all tensors to host memory; training waits only for this copy. A thread hashes and writes the copy. A
 * process has at most one save in progress.
 */
export class CheckpointStore {
  readonly folder: string;
  readonly world: CheckpointWorld;
  readonly #keepLatest: number;
  readonly #memory = new HostMemory();
  #saves = 0;
  /** Resolves when no save is in progress. */
  #free: Promise<unknown> = Promise.resolve();
  /** The save that was started last. */
  #last: PendingCheckpoint | undefined;

  /**
   * @param keepLatest number of unnamed checkpoints to keep; named ones are always kept
   * @param world rank and number of the processes that save together, which must share the folder
   */
  constructor(run: string, keepLatest: number, world: CheckpointWorld = { rank: 0, size: 1 }) {
    this.folder = join(resolve(run), "checkpoints");
    this.world = world;
    this.#keepLatest = keepLatest;
    mkdirSync(this.folder, { recursive: true });
    if (world.rank === 0) this.#tidy();
  }

  /**
   * Copies the current values of all tensors and starts writing the copy in the background. Every process of the world
   * must call it, with the same names in the same order. Waits for an earlier save of this process.
   *
   * @returns a promise that resolves when the tensors may change again
   * @throws CheckpointError CHECKPOINT_WRITE
   */
  async begin(name: string, content: CheckpointContent): Promise<PendingCheckpoint> {
    const folder = join(this.folder, name);
    const place = { name, folder, staging: join(this.folder, `.${name}.${++this.#saves}.tmp`) };
    const before = this.#free;
    const began = this.#start(before, place, content);
    this.#free = began.then(({ done }) => done).catch(() => {});
    return began;
  }

  async #start(
    before: Promise<unknown>,
    place: { name: string; folder: string; staging: string },
    content: CheckpointContent,
  ): Promise<PendingCheckpoint> {
    this.#last?.expedite();
    await before;
    try {
      const files = planFiles(content, this.world);
      const snapshot = await this.#memory.snapshot(files.tensorFiles.flatMap(({ tensors }) => tensors));
      this.#last = new PendingCheckpoint(place, this.world, files, snapshot);
      return this.#last;
    } catch (error) {
      throw cannotSave(place.folder, error);
    }
  }

  /**
   * Commits the files of all processes as a checkpoint: checks that they are complete and cover every tensor, writes
   * the manifest, renames the folder to its final name, and removes the oldest unnamed checkpoints. Only rank 0 calls
   * it.
   *
   * @param reports of all ranks, in any order
   * @returns its folder
   * @throws CheckpointError CHECKPOINT_WRITE; earlier checkpoints are unchanged
   */
  async commit(pending: PendingCheckpoint, reports: readonly ShardReport[]): Promise<string> {
    const { staging, folder } = pending;
    const keepLatest = this.#keepLatest;
    try {
      await commitInThread({ staging, folder, worldSize: this.world.size, reports: [...reports], keepLatest });
    } catch (error) {
      throw cannotSave(folder, error);
    }
    return folder;
  }

  /**
   * Saves in a single process and waits until it is done. Other work of the process continues meanwhile, but must not
   * change the tensors before they are copied, see {@link begin}.
   *
   * @returns its folder
   * @throws CheckpointError CHECKPOINT_WRITE; earlier checkpoints are unchanged
   */
  async save(name: string, content: CheckpointContent): Promise<string> {
    const pending = await this.begin(name, content);
    pending.expedite();
    return this.commit(pending, [await pending.done]);
  }

  /** Waits for a save in progress and frees the memory of the copies. */
  async close(): Promise<void> {
    this.#last?.expedite();
    await this.#free;
    this.#memory.dispose();
  }

  /** Whether the run has no checkpoints. */
  get isEmpty(): boolean {
    return this.#names().length === 0;
  }

  /** Removes all checkpoints. */
  clear(): void {
    for (const name of this.#names()) rmSync(join(this.folder, name), { recursive: true, force: true });
  }

  /** All checkpoints, newest first, and the folders that cannot be read as checkpoints. No tensor file is opened. */
  candidates(): { readable: FoundCheckpoint[]; unreadable: UnreadableCheckpoint[] } {
    return listCheckpoints(this.folder);
  }

  /** Checks the files of a checkpoint, see {@link findDamage}. */
  verify(found: FoundCheckpoint, options: DamageOptions = {}): Promise<string | undefined> {
    return findDamage(found.path, options);
  }

  /**
   * The newest undamaged checkpoint. Reads and hashes all of its files.
   *
   * @param warn receives a message for every newer, damaged checkpoint
   * @param exchange gathers a value from all processes: each then hashes a share of the files, and all select the same
   *   checkpoint
   * @returns undefined if there are no checkpoints
   * @throws CheckpointError CHECKPOINT_CORRUPT if all checkpoints are damaged
   */
  async newest(warn: (message: string) => void, exchange?: Exchange): Promise<FoundCheckpoint | undefined> {
    const { readable, unreadable } = this.candidates();
    const damaged = unreadable.map(({ name, problem }) => `${name}: ${problem}`);
    const together = exchange ?? alone;
    const ownNames = readable.map(({ name }) => name);
    const [names] = await together("listing checkpoints", ownNames);
    for (const name of names) {
      const found = readable.find((each) => each.name === name);
      const problem = found
        ? await this.verify(found, exchange && { files: shareOfFiles(found, this.world) })
        : `rank ${this.world.rank} cannot find it: the folder must be on a file system that all processes share`;
      const problems = await together("verifying a checkpoint", problem ?? null);
      const damage = problems.find((each) => each !== null);
      if (found && !damage) {
        for (const problem of damaged) warn(`checkpoint ${problem}: resuming from ${name}`);
        return found;
      }
      damaged.push(`${name}: ${damage}`);
    }
    if (damaged.length === 0) return undefined;
    throw allDamaged(this.folder, damaged);
  }

  #names(): string[] {
    return checkpointNames(this.folder);
  }

  /** Completes or removes saves of killed processes. Only the holder of the run's lock may call it. */
  #tidy(): void {
    for (const name of readdirSync(this.folder)) {
      const path = join(this.folder, name);
      const next = name.match(/^\.(.+)\.next$/);
      if (next) {
        const folder = join(this.folder, next[1]);
        mkdirSync(folder, { recursive: true });
        finishReplacement(folder);
        continue;
      }
      const previous = name.match(/^\.(.+)\.previous$/);
      if (previous && !existsSync(join(this.folder, previous[1]))) renameSync(path, join(this.folder, previous[1]));
      else if (previous || /^\..+\.tmp$/.test(name)) rmSync(path, { recursive: true, force: true });
    }
  }
}

/** Gathers a value from every process, by rank. */
type Exchange = <T>(topic: string, value: T) => Promise<T[]>;

const alone: Exchange = async (_, value) => [value];

/** The error of a run whose checkpoints are all damaged. */
function allDamaged(folder: string, damaged: readonly string[]): CheckpointError {
  const list = damaged.map((problem) => `  ${problem}`).join("\n");
  return new CheckpointError(
    "CHECKPOINT_CORRUPT",
    `all checkpoints in ${folder} are damaged
  ${list}`,
  );
}

/** The checkpoints in a folder, newest first. */
export function listCheckpoints(folder: string): { readable: FoundCheckpoint[]; unreadable: UnreadableCheckpoint[] } {
  const readable: FoundCheckpoint[] = [];
  const unreadable: UnreadableCheckpoint[] = [];
  for (const name of checkpointNames(folder)) {
    const found = readCheckpoint(join(folder, name));
    if ("problem" in found) unreadable.push(found);
    else readable.push(found);
  }
  readable.sort((a, b) => b.progress.globalStep - a.progress.globalStep || b.progress.stage - a.progress.stage);
  return { readable, unreadable };
}

/** Reads trainer.json of a checkpoint. No tensor file is opened. */
export function readCheckpoint(folder: string): FoundCheckpoint | UnreadableCheckpoint {
  const path = resolve(folder);
  const name = basename(path);
  const file = join(path, TRAINER_FILE);
  if (!existsSync(file)) return { name, path, problem: `it has no ${TRAINER_FILE}` };
  let json: unknown;
  try {
    json = parseJsonText(readTextFile(file));
  } catch {
    return { name, path, problem: `${TRAINER_FILE} is not valid JSON` };
  }
  const parsed = trainerSchema.safeParse(json);
  if (!parsed.success) return { name, path, problem: `${TRAINER_FILE} is damaged or of another version` };
  const manifest = readManifest(path);
  const worldSize = typeof manifest === "object" && manifest.format === 2 ? manifest.world : 1;
  const { format: _, ...facts } = parsed.data;
  return { name, path, worldSize, ...facts };
}

/** Whether a folder contains a run with checkpoints. */
export function holdsRun(run: string): boolean {
  return checkpointNames(join(resolve(run), "checkpoints")).length > 0;
}

function checkpointNames(folder: string): string[] {
  if (!existsSync(folder)) return [];
  const entries = readdirSync(folder, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory() && !entry.name.startsWith(".")).map((entry) => entry.name);
}

/**
 * The files that one of several processes hashes. Together they hash all files, each about the same number of bytes.
 */
export function shareOfFiles(found: FoundCheckpoint, { rank, size }: CheckpointWorld): string[] {
  const manifest = readManifest(found.path);
  if (typeof manifest !== "object") return [];
  const files = Object.entries(manifest.files).sort(([a, x], [b, y]) => y.bytes - x.bytes || (a < b ? -1 : 1));
  // Assigned in serpentine order, so that the first ranks do not get all of the largest files.
  const turn = (i: number) => (Math.floor(i / size) % 2 === 0 ? i % size : size - 1 - (i % size));
  return files.filter((_, i) => turn(i) === rank).map(([name]) => name);
}
