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

/** A checkpoint whose trainer.json can be read. Its other files may still be damaged. */
export interface FoundCheckpoint {
  name: string;
  path: string;
  savedAt: string;
  versions: Record<string, string>;
  /** How many processes wrote it. */
  worldSize: number;
  progress: Progress;
  facts: RunFingerprint;
  optimizerStep: number | null;
}

/** A folder that should be a checkpoint but is not, and why. */
export interface UnreadableCheckpoint {
  name: string;
  path: string;
  problem: string;
}

/**
 * The checkpoints of a run, RUN/checkpoints/NAME. One that a single process wrote is a folder in Hugging Face layout
 * (config.json, model.safetensors, tokenizer files), which `transformers` loads as it is, with optimizer.state,
 * trainer.json and manifest.json beside; of several processes each writes its slices to a shard of its own. A folder
 * appears whole or not at all.
 *
 * A save takes a copy of all tensors in host memory, which is all that training waits for; a thread hashes and writes the
 * copy. At most one save of a process is under way.
 */
export class CheckpointStore {
  readonly folder: string;
  readonly world: CheckpointWorld;
  readonly #keepLatest: number;
  readonly #memory = new HostMemory();
  #saves = 0;
  /** Resolves when no save is under way. */
  #free: Promise<unknown> = Promise.resolve();
  /** The save that was begun last. */
  #last: PendingCheckpoint | undefined;

  /**
   * @param keepLatest how many of the unnamed checkpoints stay; named ones always do
   * @param world this process among those that save together; all of them see the same folder
   */
  constructor(run: string, keepLatest: number, world: CheckpointWorld = { rank: 0, size: 1 }) {
    this.folder = join(resolve(run), "checkpoints");
    this.world = world;
    this.#keepLatest = keepLatest;
    mkdirSync(this.folder, { recursive: true });
    if (world.rank === 0) this.#tidy();
  }

  /**
   * Copies all tensors as they are now, and has the copy written while the caller goes on. Every process of the world
   * must call it, for the same names in the same order. Waits while an earlier save of this process is under way.
   *
   * @returns when the tensors may change again
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
   * Turns what all processes wrote into a checkpoint: checks that it is all there and covers every tensor, writes the
   * manifest, renames the folder to its place, and removes the oldest unnamed checkpoints. For rank 0 only.
   *
   * @param reports of all ranks, in any order
   * @returns its folder
   * @throws CheckpointError CHECKPOINT_WRITE; all earlier checkpoints are as they were
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
   * Saves in a process that is alone, and waits until it is done. Other work of the process goes on meanwhile, but must
   * not change the tensors before the copy is taken: see {@link begin}.
   *
   * @returns its folder
   * @throws CheckpointError CHECKPOINT_WRITE; all earlier checkpoints are as they were
   */
  async save(name: string, content: CheckpointContent): Promise<string> {
    const pending = await this.begin(name, content);
    pending.expedite();
    return this.commit(pending, [await pending.done]);
  }

  /** Waits for a save that is under way, and frees the memory of the copies. */
  async close(): Promise<void> {
    this.#last?.expedite();
    await this.#free;
    this.#memory.dispose();
  }

  /** Whether anything was saved here. */
  get isEmpty(): boolean {
    return this.#names().length === 0;
  }

  /** Removes all checkpoints. */
  clear(): void {
    for (const name of this.#names()) rmSync(join(this.folder, name), { recursive: true, force: true });
  }

  /** All checkpoints, the newest first, and the folders that cannot be read as such. No tensor file is opened. */
  candidates(): { readable: FoundCheckpoint[]; unreadable: UnreadableCheckpoint[] } {
    return listCheckpoints(this.folder);
  }

  /** What is wrong with the files of a checkpoint: see {@link findDamage}. */
  verify(found: FoundCheckpoint, options: DamageOptions = {}): Promise<string | undefined> {
    return findDamage(found.path, options);
  }

  /**
   * The newest checkpoint that is whole. Reads and hashes all of its files.
   *
   * @param warn receives a message for every newer one that is damaged
   * @param exchange gathers the values of all processes: each then hashes its share of the files, and all find the same one
   * @returns undefined if there are none at all
   * @throws CheckpointError CHECKPOINT_CORRUPT if there are some, and none is whole
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
        : `rank ${this.world.rank} does not see it: is the folder on a disk that all processes share?`;
      const problems = await together("verifying a checkpoint", problem ?? null);
      const damage = problems.find((each) => each !== null);
      if (found && !damage) {
        for (const problem of damaged) warn(`checkpoint ${problem}: going on from ${name}`);
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

  /** Completes or removes what processes left that were killed while saving. Only the holder of the run's lock may call it. */
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

/** Resolves to the values of all processes, by rank. */
type Exchange = <T>(topic: string, value: T) => Promise<T[]>;

const alone: Exchange = async (_, value) => [value];

/** The error of a run whose checkpoints are all damaged. */
function allDamaged(folder: string, damaged: readonly string[]): CheckpointError {
  const list = damaged.map((problem) => `  ${problem}`).join("\n");
  return new CheckpointError("CHECKPOINT_CORRUPT", `no checkpoint in ${folder} is whole\n${list}`);
}

/** The checkpoints in a folder, the newest first. */
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

/** Whether a folder holds a run that was saved. */
export function holdsRun(run: string): boolean {
  return checkpointNames(join(resolve(run), "checkpoints")).length > 0;
}

function checkpointNames(folder: string): string[] {
  if (!existsSync(folder)) return [];
  const entries = readdirSync(folder, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory() && !entry.name.startsWith(".")).map((entry) => entry.name);
}

/** The files that one of several processes hashes, so that together they hash all and each about as many bytes. */
export function shareOfFiles(found: FoundCheckpoint, { rank, size }: CheckpointWorld): string[] {
  const manifest = readManifest(found.path);
  if (typeof manifest !== "object") return [];
  const files = Object.entries(manifest.files).sort(([a, x], [b, y]) => y.bytes - x.bytes || (a < b ? -1 : 1));
  // There and back again: the largest do not all fall to the first ranks.
  const turn = (i: number) => (Math.floor(i / size) % 2 === 0 ? i % size : size - 1 - (i % size));
  return files.filter((_, i) => turn(i) === rank).map(([name]) => name);
}
