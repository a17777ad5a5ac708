import { parentPort, workerData } from "node:worker_threads";
import type { Batch } from "../model/objective.js";
import { type LoaderDescription, openLoader } from "./loader.js";

// The thread that reads batches ahead: it serves one request after the other.

/** A part of the stream: a micro-batch. */
export interface BatchPlace {
  readonly position: number;
  readonly batchSize: number;
}

export interface ReadRequest {
  readonly id: number;
  readonly places: readonly BatchPlace[];
}

/** An error as it crosses. */
export interface SentError {
  readonly name: string;
  readonly message: string;
  readonly code?: string;
  readonly stack?: string;
}

export type ReadReply =
  | { kind: "ready" }
  | { kind: "unusable"; error: SentError }
  | { kind: "batches"; id: number; batches: Batch[] }
  | { kind: "failed"; id: number; error: SentError };

const port = parentPort;
if (!port) throw new Error("prefetch-thread.ts runs in a worker thread");

try {
  const loader = await openLoader(workerData as LoaderDescription);
  port.on("message", ({ id, places }: ReadRequest) => {
    try {
      const batches = places.map(({ position, batchSize }) => loader.batchAt(position, batchSize));
      const memory = batches.flatMap(({ tokens, lossMask }) =>
        lossMask ? [tokens.buffer, lossMask.buffer] : [tokens.buffer],
      );
      answer({ kind: "batches", id, batches }, memory as ArrayBuffer[]);
    } catch (error) {
      answer({ kind: "failed", id, error: sent(error) });
    }
  });
  answer({ kind: "ready" });
} catch (error) {
  answer({ kind: "unusable", error: sent(error) });
}

function answer(reply: ReadReply, transfer: ArrayBuffer[] = []): void {
  port?.postMessage(reply, transfer);
}

/** Anything may be thrown. */
function sent(error: unknown): SentError {
  if (!(error instanceof Error)) return { name: "Error", message: String(error) };
  const { name, message, stack } = error;
  const { code } = error as { code?: unknown };
  return { name, message, stack, ...(typeof code === "string" && { code }) };
}
