import picocolors from "picocolors";

/** One check of the machine. `missing` means that diffcoder cannot run without it. */
export interface DoctorCheck {
  name: string;
  status: "ok" | "warning" | "missing";
  found: string;
  /** The command or step that fixes it; null if nothing is wrong. */
  mend: string | null;
}

/** What `diffcoder doctor --json` prints. */
export interface DoctorReport {
  canRun: boolean;
  checks: DoctorCheck[];
  /** One line for each location where libtorch was searched, and why it was not used. */
  libtorchTried: string[];
  /** The same as plain values, for programs. */
  facts: Record<string, unknown>;
}

interface DoctorModule {
  doctorReport(): DoctorReport;
  formatReport(report: DoctorReport, options: { color: boolean }): string;
}

/**
 * The report comes from scripts/lib/doctor.mjs, which also runs before anything is installed, so that set-up and doctor
 * give the same results.
 */
async function doctorModule(): Promise<DoctorModule> {
  return (await import(new URL("../../scripts/lib/doctor.mjs", import.meta.url).href)) as DoctorModule;
}

/**
 * Checks everything that diffcoder needs on this machine. Loads the addon only in a child process, so that it works if
 * the addon is broken.
 */
export async function doctorReport(): Promise<DoctorReport> {
  return (await doctorModule()).doctorReport();
}

/** Prints the report; sets exit code 1 if diffcoder cannot run here. */
export async function printDoctorReport({ json }: { json: boolean }): Promise<void> {
  const { doctorReport, formatReport } = await doctorModule();
  const report = doctorReport();
  const text = json ? JSON.stringify(report, null, 2) : formatReport(report, { color: picocolors.isColorSupported });
  process.stdout.write(`${text}\n`);
  if (!report.canRun) process.exitCode = 1;
}
