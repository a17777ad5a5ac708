import { Command } from "commander";
import picocolors from "picocolors";

/** One thing that was looked at. `missing`: diffcoder cannot run without it. */
export interface DoctorCheck {
  name: string;
  status: "ok" | "warning" | "missing";
  found: string;
  /** The command or step that mends it; null if nothing is wrong. */
  mend: string | null;
}

/** What `diffcoder doctor --json` prints. */
export interface DoctorReport {
  canRun: boolean;
  checks: DoctorCheck[];
  /** One line for each place where libtorch was looked for, and why it was not taken. */
  libtorchTried: string[];
  /** The same as plain values, for programs. */
  facts: Record<string, unknown>;
}

interface DoctorModule {
  doctorReport(): DoctorReport;
  formatReport(report: DoctorReport, options: { color: boolean }): string;
}

/** The report is made by scripts/lib/doctor.mjs, which also runs where nothing is installed: set-up and doctor must agree on what they see. */
async function doctorModule(): Promise<DoctorModule> {
  return (await import(new URL("../../scripts/lib/doctor.mjs", import.meta.url).href)) as DoctorModule;
}

/** Looks at everything that diffcoder needs on this machine. Loads the addon only in a child process, so it works when that is broken. */
export async function doctorReport(): Promise<DoctorReport> {
  return (await doctorModule()).doctorReport();
}

/** The command `diffcoder doctor`: prints the report; the exit code is 1 if diffcoder cannot run here. */
export function doctorCommand(): Command {
  return new Command("doctor")
    .summary("say what was found on this machine, what is missing and how to mend it")
    .description(
      "Says what was found on this machine, what is missing and the command that mends it. Exit code 1: diffcoder cannot run.",
    )
    .option("--json", "print the report as JSON")
    .action(async (options: { json?: boolean }) => {
      const { doctorReport, formatReport } = await doctorModule();
      const report = doctorReport();
      const text = options.json
        ? JSON.stringify(report, null, 2)
        : formatReport(report, { color: picocolors.isColorSupported });
      process.stdout.write(`${text}\n`);
      if (!report.canRun) process.exitCode = 1;
    });
}
