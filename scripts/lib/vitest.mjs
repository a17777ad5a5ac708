// Runs vitest on the terminal and counts what it ran.
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pathsOf, projectRoot } from "./paths.mjs";
import { runInherited } from "./run.mjs";
import { tallyVitest } from "./tally.mjs";

/** The JavaScript file behind a package's command, so that no shell or npx is needed. */
export function packageCommand(name, bin = name) {
  const file = createRequire(join(projectRoot, "package.json")).resolve(`${name}/package.json`);
  const entry = JSON.parse(readFileSync(file, "utf8")).bin;
  return join(dirname(file), typeof entry === "string" ? entry : entry[bin]);
}

/**
 * @param {string[]} args further arguments of `vitest run`
 * @param {{ env?: NodeJS.ProcessEnv }} [options]
 */
export async function runVitest(args, { env = process.env } = {}) {
  // A name of its own: two runs at once must not read each other's report.
  const file = join(pathsOf().cache, "test", `vitest-${process.pid}.json`);
  mkdirSync(dirname(file), { recursive: true });
  rmSync(file, { force: true });
  try {
    const command = [
      packageCommand("vitest"),
      "run",
      "--reporter=default",
      "--reporter=json",
      `--outputFile.json=${file}`,
      ...args,
    ];
    const exitCode = await runInherited(process.execPath, command, { cwd: projectRoot, env });
    let report = null;
    try {
      report = JSON.parse(readFileSync(file, "utf8"));
    } catch {
      // it crashed before it could write; the tally counts that
    }
    return tallyVitest(report, exitCode);
  } finally {
    rmSync(file, { force: true });
  }
}
