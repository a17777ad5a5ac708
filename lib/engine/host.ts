import type { StableDiffCoder } from "../checkpoint/index.js";
import { type ClientOptions, localLink, processLink, threadLink, WorkerClient } from "../worker/index.js";
import type { CoreService } from "./core-service.js";
import { EngineError, type EngineErrorCode } from "./errors.js";
import type { EngineSettings } from "./options.js";
import type { CoreHandlers, CoreReports } from "./protocol.js";
import type { CoreStats } from "./types.js";

/** The place where the engine's core runs. */
export interface Host {
  readonly client: WorkerClient<CoreHandlers, CoreReports>;
  /** Its current stats, where they take no message. */
  stats?(): CoreStats | undefined;
}

/**
 * Starts the core where the settings say: in a child process, whose crash does not end this process; in a worker thread; or
 * in this thread, where passes block the event loop.
 *
 * @param model a folder, or a loaded model, whose core runs in this thread
 */
export function startCore(
  model: string | StableDiffCoder,
  worker: EngineSettings["worker"],
  events: Pick<ClientOptions<CoreReports>, "onEvent" | "onEnd" | "onPulse">,
): Host {
  const options: ClientOptions<CoreReports> = {
    ...events,
    revive: ({ name, code, message, details }) =>
      name === "EngineError" ? new EngineError(code as EngineErrorCode, message, { details }) : undefined,
  };
  if (typeof model === "string" && worker !== "none") {
    const link = worker === "process" ? processLink : threadLink;
    return { client: new WorkerClient(link("worker", import.meta.url), options) };
  }
  let service: CoreService | undefined;
  const link = localLink<CoreHandlers, CoreReports>(async (context) => {
    // Only now: it loads the addon, which an engine with a worker does not need in this process.
    const module = await import("./core-service.js");
    service = new module.CoreService(context, typeof model === "string" ? undefined : model);
    return service.handlers;
  });
  return { client: new WorkerClient(link, options), stats: () => service?.stats() };
}
