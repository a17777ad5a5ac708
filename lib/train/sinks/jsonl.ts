import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import type { FailedEvent, TrainEvent } from "../events.js";
import { AppendFile } from "./append-file.js";
import type { Sink } from "./sink.js";

/**
 * Writes each event as one line of JSON, by default to `metrics.jsonl`. Every line is written immediately and flushed
 * to the disk with each checkpoint. When a run resumes from a checkpoint, the lines of later steps are removed first,
 * so that no step is in the file twice; so is a line that a crash left incomplete. A file that is removed during the
 * run is written again.
 */
export function jsonl(path: string): Sink {
  let file: AppendFile | undefined;

  const open = (event: TrainEvent | FailedEvent) => {
    mkdirSync(dirname(path), { recursive: true });
    const kept = event.type === "start" && event.resumed ? linesUpTo(path, event.globalStep) : "";
    if (event.type === "start") {
      writeFileSync(`${path}.tmp`, kept);
      renameSync(`${path}.tmp`, path);
    }
    return new AppendFile(path);
  };

  return {
    name: path,
    write(event) {
      file ??= open(event);
      file.append(Buffer.from(`${JSON.stringify({ time: new Date().toISOString(), ...event })}\n`));
      if (event.type === "checkpoint") file.flush();
    },
    close() {
      const closing = file;
      file = undefined;
      closing?.close();
    },
  };
}

/** The complete lines of events up to a step. */
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
