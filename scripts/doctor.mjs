// npm run doctor: the report of `diffcoder doctor`, without anything having been built.
import { doctorReport, formatReport } from "./lib/doctor.mjs";

const args = process.argv.slice(2);
const unknown = args.find((arg) => !["--json", "--help", "-h"].includes(arg));
if (args.includes("--help") || args.includes("-h") || unknown) {
  if (unknown) console.error(`unknown option ${unknown}`);
  console.log(
    "Usage: diffcoder doctor [--json]\n\nSays what was found on this machine, what is missing and the command that mends it.",
  );
  process.exitCode = unknown ? 2 : 0;
} else {
  const report = doctorReport();
  const color = Boolean(process.stdout.isTTY) && !process.env.NO_COLOR;
  console.log(args.includes("--json") ? JSON.stringify(report, null, 2) : formatReport(report, { color }));
  process.exitCode = report.canRun ? 0 : 1;
}
