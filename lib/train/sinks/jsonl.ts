import {
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { dirname } from "node:path";
import { writeAll } from "../../torch/write-all.js";
import type { FailedEvent, TrainEvent } from "../events.js";
import type { Sink } from "./sink.js";

/**
 * One JSON object a line and event, `metrics.jsonl`. Every line is written at once and flushed to the disk with each
 * checkpoint. When a run goes on from a checkpoint, lines of steps after it are taken out first, so that no step is in the
 * file twice; a line that was torn by a crash goes with them.
 */
export function jsonl(path: string): Sink {
  let file: number | undefined;
  let end = 0;

  const open = (event: TrainEvent | FailedEvent) => {
    mkdirSync(dirname(path), { recursive: true });
    const kept = event.type === "start" && event.resumed ? linesUpTo(path, event.globalStep) : "";
    if (event.type === "start") {
      writeFileSync(`${path}.tmp`, kept);
      renameSync(`${path}.tmp`, path);
    }
    file = openSync(path, "a");
    end = fstatSync(file).size;
  };

  return {
    name: path,
    write(event) {
      if (file === undefined) open(event);
      const line = Buffer.from(`${JSON.stringify({ time: new Date().toISOString(), ...event })}\n`);
      try {
        writeAll(file as number, line);
        end += line.length;
      } catch (error) {
        ftruncateSync(file as number, end); // half a line would spoil the next one
        throw error;
      }
      if (event.type === "checkpoint") fsyncSync(file as number);
    },
    close() {
      if (file === undefined) return;
      try {
        fsyncSync(file);
      } finally {
        closeSync(file);
        file = undefined;
      }
    },
  };
}

/** The whole lines of events up to a step. */
function linesUpTo(path: string, globalStep: number): string {
  if (!existsSync(path)) return "";
  const kept = readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => {
      try {
        return (JSON.parse(line) as { globalStep: number }).globalStep <= globalStep;
      } catch {
        return false;
      }
    });
  return kept.map((line) => `${line}\n`).join("");
}
