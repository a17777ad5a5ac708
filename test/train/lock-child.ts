// One of the processes that race for a run's lock. The parent says what to do, over IPC, one thing after the other.
import { closeSync, openSync, rmSync } from "node:fs";
import { join } from "node:path";
import { TrainError } from "../../lib/train/errors.js";
import { RunLock } from "../../lib/train/run-lock.js";

export type LockOrder =
  | { kind: "take"; folder: string }
  | { kind: "release" }
  /** Takes the lock so many times, and looks each time whether it is alone. */
  | { kind: "turns"; folder: string; count: number };
/** What came of it; `turns` counts the times that the lock was had. */
export type LockReply = { kind: "held" | "locked" | "released" } | { kind: "turns"; had: number; together: number };

let lock: RunLock | undefined;

process.on("message", (order: LockOrder) => {
  void obey(order).then((reply) => process.send?.(reply));
});

async function obey(order: LockOrder): Promise<LockReply> {
  if (order.kind === "take") return { kind: (await take(order.folder)) ? "held" : "locked" };
  if (order.kind === "turns") return await turns(order.folder, order.count);
  lock?.release();
  lock = undefined;
  return { kind: "released" };
}

async function take(folder: string): Promise<boolean> {
  try {
    lock = await RunLock.acquire(folder);
    return true;
  } catch (error) {
    if (error instanceof TrainError && error.code === "TRAIN_RUN_LOCKED") return false;
    throw error;
  }
}

async function turns(folder: string, count: number): Promise<LockReply> {
  const reply = { kind: "turns" as const, had: 0, together: 0 };
  const mark = join(folder, "inside");
  while (reply.had < count) {
    if (!(await take(folder))) continue;
    reply.had++;
    try {
      closeSync(openSync(mark, "wx"));
      rmSync(mark);
    } catch {
      reply.together++;
    }
    lock?.release();
  }
  return reply;
}

process.send?.({ kind: "released" });
