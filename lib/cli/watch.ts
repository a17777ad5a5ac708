import { Command } from "commander";
import { real } from "./options.js";

export interface WatchOptions {
  interval?: number;
  once?: boolean;
}

/** `diffcoder watch RUN...` */
export function watchCommand(): Command {
  return new Command("watch")
    .summary("a live dashboard of training runs")
    .description(
      "Follows runs by their metrics.jsonl, from this machine or another that sees the folder: stage and time left, " +
        "curves, rates, ranks, checkpoints, samples. A run may not have begun yet. Without a terminal a line is printed " +
        "now and then, until all runs have ended.",
    )
    .argument("<run...>", "a run's folder, or its metrics.jsonl")
    .option("--interval <seconds>", "time between two looks; default: 1 on a terminal, 5 elsewhere", real(0.05, 3600))
    .option("--once", "print the dashboard as it is now, and end")
    .action(async (runs: string[], options: WatchOptions) => {
      const { watch } = await import("./watch/run.js");
      await watch(runs, options);
    });
}
