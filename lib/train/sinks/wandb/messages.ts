/** What the thread with W&B's SDK is started with. */
export interface WorkerSettings {
  /** Address of the SDK's module. */
  sdk: string;
  init: { project: string; entity?: string; name?: string; config: Record<string, unknown> };
}

export type ToWorker =
  | { type: "log"; data: Record<string, unknown>; step: number }
  | { type: "finish"; exitCode: number };

export type FromWorker = { type: "ready"; url?: string } | { type: "failed"; message: string };
