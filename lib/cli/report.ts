import { Command } from "commander";

export interface ReportOptions {
  out: string;
  title?: string;
}

/** `diffcoder report RUN...` */
export function reportCommand(): Command {
  return new Command("report")
    .summary("one HTML page of a training run, or of several to compare them")
    .description(
      "Writes one HTML file that needs no network: of one run its curves, samples and facts; of several their curves over " +
        "each other, their final numbers and what they were made with. Reads metrics.jsonl, or where there is none report.html.",
    )
    .argument("<run...>", "a run's folder, its metrics.jsonl or its report.html")
    .option("--out <file>", "the page", "report.html")
    .option("--title <text>", "its heading; default: the run's name, or how many runs there are")
    .action(async (runs: string[], options: ReportOptions) => {
      const { writeReport } = await import("./compare/run.js");
      await writeReport(runs, options);
      process.stdout.write(`${options.out}\n`);
    });
}
