import { fork } from "node:child_process";
import type { Socket } from "node:net";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";
import type { StableDiffCoder } from "../checkpoint/index.js";
import { loaderArguments, startThread } from "../torch/start-thread.js";
import type { CoreService } from "./core-service.js";
import { type CoreMessage, type CoreReply, FrameReader, PULSE_FD, REPLIES_FD } from "./protocol.js";
import type { CoreStats } from "./types.js";

/** The place where the engine's core runs. */
export interface Host {
  post(message: CoreMessage): void;
  /** Kills it at once. */
  kill(): Promise<void>;
  /** Whether it keeps this process alive. */
  ref(): void;
  unref(): void;
  /** The id of the child process, if it is one. */
  readonly pid?: number;
  /** Its current stats, where they take no message. */
  stats?(): CoreStats | undefined;
}

export interface HostHandlers {
  onReply(reply: CoreReply): void;
  /** A heartbeat of a process, with the turns of its event loop, modulo 256. */
  onPulse(turns: number): void;
  /** Called once, however it ended. */
  onExit(reason: string): void;
}

/** Starts the core in a worker thread: cheap messages, but a crash of native code ends the whole process. */
export function startWorkerThread({ onReply, onExit }: HostHandlers): Host {
  const worker = startThread("worker", import.meta.url);
  const end = once(onExit);
  worker.on("message", onReply);
  worker.on("error", (error) => end(error.message));
  worker.on("exit", (code) => end(`the thread ended with code ${code}`));
  return {
    post: (message) => worker.postMessage(message),
    kill: async () => void (await worker.terminate()),
    ref: () => worker.ref(),
    unref: () => worker.unref(),
  };
}

/** Starts the core in a child process: a crash of native code does not end this process. */
export function startProcess({ onReply, onPulse, onExit }: HostHandlers): Host {
  const here = import.meta.url;
  const module = new URL(`./worker${extname(here)}`, here);
  const child = fork(fileURLToPath(module), [], {
    execArgv: loaderArguments(here),
    serialization: "advanced",
    stdio: ["ignore", "inherit", "inherit", "ipc", "pipe", "pipe"],
  });
  const streams: readonly unknown[] = child.stdio;
  const replies = streams[REPLIES_FD] as Socket;
  const pulse = streams[PULSE_FD] as Socket;
  const frames = new FrameReader();
  const end = once(onExit);
  replies.on("data", (piece) => {
    for (const reply of frames.push(piece)) onReply(reply as CoreReply);
  });
  pulse.on("data", (beats: Buffer) => onPulse(beats[beats.length - 1]));
  for (const stream of [replies, pulse]) stream.on("error", () => {}); // onExit reports the end
  child.on("error", (error) => end(error.message));
  child.on("exit", (code, signal) => end(`the process ended with ${signal ?? `code ${code}`}`));
  return {
    post: (message) => {
      // A process that has just died takes no messages; onExit reports its end.
      if (child.connected) child.send(message, () => {});
    },
    kill: () =>
      new Promise((resolve) => {
        if (child.exitCode !== null || child.signalCode !== null) resolve();
        else child.once("exit", () => resolve());
        child.kill("SIGKILL");
      }),
    ref: () => {
      child.ref();
      child.channel?.ref();
      replies.ref();
      pulse.ref();
    },
    unref: () => {
      child.unref();
      child.channel?.unref();
      replies.unref();
      pulse.unref();
    },
    get pid() {
      return child.pid;
    },
  };
}

/** The core in this thread: nothing is copied, and passes block the event loop. @param given see {@link CoreService} */
export function startHere({ onReply }: HostHandlers, given?: StableDiffCoder): Host {
  let service: CoreService | undefined;
  // Only now: it loads the addon, which an engine with a worker does not need in this process.
  const loading = import("./core-service.js").then((module) => {
    service = new module.CoreService(onReply, given);
    return service;
  });
  return {
    post: (message) => void (service ? service.handle(message) : loading.then((ready) => ready.handle(message))),
    kill: async () => {},
    ref: () => {},
    unref: () => {},
    stats: () => service?.stats(),
  };
}

function once(fn: (reason: string) => void): (reason: string) => void {
  let done = false;
  return (reason) => {
    if (done) return;
    done = true;
    fn(reason);
  };
}
