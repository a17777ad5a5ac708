import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { TrainError } from "../../errors.js";

/** A W&B run as far as the sink uses one. */
export interface WandbRun {
  log(data: Record<string, unknown>, options: { step: number }): unknown;
  finish(exitCode?: number): unknown;
  /** What the run was made with goes here, where the run has it. */
  config?: { update(values: Record<string, unknown>): unknown };
  /** Checkpoints and the end go here, where the run has it; otherwise they are logged. */
  summary?: { update(values: Record<string, unknown>): unknown };
}

export interface WandbOptions {
  project: string;
  /** The team or user; default: the one that the API key belongs to. */
  entity?: string;
  /** Shown as the run's name; default: W&B makes one up. */
  name?: string;
  /** Longest time in seconds that the end of training waits for what is still to be sent. Default 30. */
  finishSeconds?: number;
  /**
   * "online" sends everything as it comes. "offline" writes a folder for `wandb sync`, without a network, a key or the
   * SDK. "disabled" does nothing. Default: WANDB_MODE, else "online".
   */
  mode?: WandbMode;
  /** Called with the run's address once W&B knows the run. */
  onUrl?: (url: string) => void;
  /** Called with the folder of an offline run. */
  onFolder?: (folder: string) => void;
  /** Another module with the interface of `@wandb/sdk`: a name, or the path of a file. */
  sdk?: string;
}

export type WandbMode = "online" | "offline" | "disabled";

/**
 * The address of W&B's SDK: beside this package, or where the program was started.
 *
 * @throws TrainError TRAIN_OPTIONS with the command that installs it
 */
export function findSdk(name = "@wandb/sdk"): string {
  const isPath = /^(\.|\/|file:)/.test(name);
  if (isPath) return name.startsWith("file:") ? name : pathToFileURL(resolve(name)).href;
  for (const from of [import.meta.url, join(process.cwd(), "package.json")]) {
    try {
      return pathToFileURL(createRequire(from).resolve(name)).href;
    } catch {
      // not there; perhaps at the next place
    }
  }
  // graphql is a peer of the SDK that it does not bring itself.
  throw new TrainError("TRAIN_OPTIONS", `wandb: ${name} is not installed. Run: npm install ${name} graphql`);
}
