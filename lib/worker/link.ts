import { fork } from "node:child_process";
import type { Socket } from "node:net";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";
import type { WorkerOptions } from "node:worker_threads";
import { answerRequests, type Setup } from "./answer.js";
import { FrameReader, PULSE_FD, REPLIES_FD } from "./frames.js";
import type { Handlers, Reply, Request } from "./messages.js";
import { loaderArguments, startThread } from "./start-thread.js";

/** A worker ended before it was asked to: a crash, an exit, an uncaught error. */
export class WorkerEnded extends Error {
  override readonly name = "WorkerEnded";
  /** "exit code 1", "signal SIGKILL", or the message of the uncaught error. */
  readonly reason: string;

  constructor(worker: string, reason: string, options?: ErrorOptions) {
    super(`${worker} ended: ${reason}`, options);
    this.reason = reason;
  }
}

/** The client's end of the connection to a worker. */
export interface Link {
  send(request: Request, buffers?: readonly ArrayBuffer[]): void;
  /** Ends the worker at once. */
  kill(): Promise<void>;
  /** Makes the worker keep this process alive, as it does from its start. */
  ref(): void;
  unref(): void;
  /** The id of the child process, where it is one. */
  readonly pid?: number;
}

export interface LinkEvents {
  onReply(reply: Reply): void;
  /** Called once, however the worker ended. */
  onEnd(error: WorkerEnded): void;
  /** A heartbeat of a child process: how often its event loop turned, modulo 256. */
  onPulse?(turns: number): void;
}

export type StartLink = (events: LinkEvents) => Link;

/**
 * A worker thread: messages are cheap, but a crash of native code ends the whole process.
 *
 * @param name of the module that calls `serve`, without extension
 * @param caller import.meta.url of the module beside it
 */
export function threadLink(name: string, caller: string, options: WorkerOptions = {}): StartLink {
  return ({ onReply, onEnd }) => {
    const worker = startThread(name, caller, options);
    let cause: unknown;
    worker.on("message", onReply);
    worker.on("error", (error) => {
      cause = error;
    });
    worker.on("messageerror", (error) => {
      cause = error;
      void worker.terminate(); // a reply is lost
    });
    worker.on("exit", (code) => onEnd(endOf(`the thread ${name}`, `exit code ${code}`, cause)));
    return {
      send: (request, buffers) => worker.postMessage(request, buffers as ArrayBuffer[] | undefined),
      kill: async () => void (await worker.terminate()),
      ref: () => worker.ref(),
      unref: () => worker.unref(),
    };
  };
}

/** A child process: a crash of native code does not end this one. Parameters as for {@link threadLink}. */
export function processLink(name: string, caller: string): StartLink {
  return ({ onReply, onEnd, onPulse }) => {
    const module = new URL(`./${name}${extname(caller)}`, caller);
    const child = fork(fileURLToPath(module), [], {
      execArgv: loaderArguments(caller),
      serialization: "advanced",
      stdio: ["ignore", "inherit", "inherit", "ipc", "pipe", "pipe"],
    });
    const streams: readonly unknown[] = child.stdio;
    const replies = streams[REPLIES_FD] as Socket;
    const pulse = streams[PULSE_FD] as Socket;
    const frames = new FrameReader();
    replies.on("data", (piece) => {
      for (const reply of frames.push(piece)) onReply(reply as Reply);
    });
    pulse.on("data", (beats: Buffer) => onPulse?.(beats[beats.length - 1]));
    for (const stream of [replies, pulse]) stream.on("error", () => {}); // onEnd reports the end
    const what = `the process ${name}`;
    child.once("error", (error) => onEnd(endOf(what, error.message, error)));
    // Not "exit": the last replies may still be in the pipe.
    child.once("close", (code, signal) =>
      onEnd(endOf(what, signal === null ? `exit code ${code}` : `signal ${signal}`)),
    );
    const parts = () => [child, ...(child.channel ? [child.channel] : []), replies, pulse];
    return {
      send: (request) => {
        // A process that has just ended takes no messages; onEnd reports its end.
        if (child.connected) child.send(request, () => {});
      },
      kill: () =>
        new Promise((resolve) => {
          if (child.exitCode !== null || child.signalCode !== null) resolve();
          else child.once("exit", () => resolve());
          child.kill("SIGKILL");
        }),
      ref: () => {
        for (const part of parts()) part.ref();
      },
      unref: () => {
        for (const part of parts()) part.unref();
      },
      get pid() {
        return child.pid;
      },
    };
  };
}

/** A worker in this thread: nothing is copied, and its work blocks the event loop. */
export function localLink<H extends Handlers<H>, Event>(setup: Setup<H, Event>): StartLink {
  return ({ onReply }) => ({
    send: answerRequests(setup, { send: onReply, stop: () => {} }),
    kill: async () => {},
    ref: () => {},
    unref: () => {},
  });
}

/** @param cause the uncaught error, if there was one */
function endOf(worker: string, reason: string, cause?: unknown): WorkerEnded {
  if (cause === undefined) return new WorkerEnded(worker, reason);
  return new WorkerEnded(worker, cause instanceof Error ? cause.message : String(cause), { cause });
}
