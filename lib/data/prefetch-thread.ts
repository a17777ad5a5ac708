import { workerData } from "node:worker_threads";
import type { Batch } from "../model/objective.js";
import { Transfer } from "../worker/messages.js";
import { serve } from "../worker/serve.js";
import { type LoaderDescription, openLoader } from "./loader.js";

// The thread that reads batches ahead.

/** A part of the stream: a micro-batch. */
export interface BatchPlace {
  readonly position: number;
  readonly batchSize: number;
}

export interface PrefetchHandlers {
  read(places: readonly BatchPlace[]): Batch[] | Transfer<Batch[]>;
}

serve<PrefetchHandlers>(async () => {
  const loader = await openLoader(workerData as LoaderDescription);
  return {
    read(places) {
      const batches = places.map(({ position, batchSize }) => loader.batchAt(position, batchSize));
      const memory = batches.flatMap(({ tokens, lossMask }) =>
        lossMask ? [tokens.buffer, lossMask.buffer] : [tokens.buffer],
      );
      return new Transfer(batches, memory as ArrayBuffer[]);
    },
  };
});
