import type { ShardReport } from "./commit.js";
import type { CheckpointWorld, PlannedFiles } from "./content.js";
import type { CheckpointError } from "./errors.js";
import type { Snapshot } from "./host-memory.js";
import { REST } from "./pace.js";
import { cannotSave } from "./staging.js";
import { removeInThread, WriterJob } from "./writer.js";

/**
 * A checkpoint whose tensors are copied and whose files are being written; each process writes its part. It is complete
 * when rank 0 has committed it.
 */
export class PendingCheckpoint {
  readonly name: string;
  /** Folder of the committed checkpoint. */
  readonly folder: string;
  /** Folder of its files until the commit. */
  readonly staging: string;
  /** Resolves when this process's files are on disk. Rejects with a CheckpointError CHECKPOINT_WRITE. */
  readonly done: Promise<ShardReport>;
  readonly #world: CheckpointWorld;
  readonly #job: WriterJob;
  #report: ShardReport | undefined;
  #error: CheckpointError | undefined;

  /** Used by {@link CheckpointStore.begin}. */
  constructor(
    place: { name: string; folder: string; staging: string },
    world: CheckpointWorld,
    files: PlannedFiles,
    snapshot: Snapshot,
  ) {
    this.name = place.name;
    this.folder = place.folder;
    this.staging = place.staging;
    this.#world = world;
    // With a device, training leaves the CPU cores free.
    const sharesProcessors = files.tensorFiles.some(({ tensors }) => tensors.some(({ device }) => device === "cpu"));
    this.#job = new WriterJob(place.staging, sharesProcessors ? REST : 0);
    this.done = this.#write(files, snapshot);
    this.done.catch(() => {}); // callers may poll `error` instead
  }

  /** The files of this process, for rank 0's commit; undefined until they are on disk. Does not wait. */
  report(): ShardReport | undefined {
    return this.#report;
  }

  /** The error, if the save failed. */
  get error(): CheckpointError | undefined {
    return this.#error;
  }

  /** Writes at full speed from now on, because a caller is waiting. Until then training has priority. */
  expedite(): void {
    this.#job.expedite();
  }

  /** Cancels the save and removes its files. Every process that started it must call this. */
  async abort(): Promise<void> {
    this.#job.cancel();
    await this.done.catch(() => {});
    if (this.#world.rank === 0) await removeInThread(this.staging).catch(() => {});
  }

  async #write(files: PlannedFiles, snapshot: Snapshot): Promise<ShardReport> {
    const job = this.#job;
    try {
      for (const [name, content] of files.texts) job.post("text", { name, content });
      for (const [from, name] of files.copies) job.post("copy", { from, name });
      let index = 0;
      for (const { name, header, tensors } of files.tensorFiles) {
        job.post("open", { name, header });
        for (const _ of tensors) await snapshot.send(index++, job);
        job.post("close", {});
      }
      this.#report = { rank: this.#world.rank, files: await job.end() };
      return this.#report;
    } catch (error) {
      job.cancel();
      snapshot.release();
      await job.end().catch(() => {});
      if (this.#world.size === 1) await removeInThread(this.staging).catch(() => {});
      this.#error = cannotSave(this.folder, error);
      throw this.#error;
    }
  }
}
