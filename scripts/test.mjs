// npm test: set-up, lint, type check, all tests. npm test -- NAME: only the test files whose path contains NAME.
import { join } from "node:path";
import { projectRoot } from "./lib/paths.mjs";
import { runInherited } from "./lib/run.mjs";
import { printProblem, setup } from "./lib/setup.mjs";
import { emptyTally, exitCodeOf, finalLine, sum, tallyCheck } from "./lib/tally.mjs";
import { packageCommand, runVitest } from "./lib/vitest.mjs";

const args = process.argv.slice(2);

if (args.includes("--help") || args.includes("-h")) {
  console.log(`Usage: npm test [-- NAME... | vitest options]

Without arguments: lint, type check and every test but those in test/gpu/. With arguments: only tests, as vitest selects them
(NAME is a part of a file's path; -t PATTERN selects by title). The last line is 'N passed, N failed'.`);
  process.exit();
}

/** Runs commands of one check; prints its title; true if all ended well. */
async function check(title, commands) {
  console.log(`\n== ${title}`);
  let ok = true;
  for (const command of commands) {
    const status = await runInherited(process.execPath, command, { cwd: projectRoot });
    ok = ok && status === 0;
  }
  console.log(ok ? "ok" : `${title} failed`);
  return tallyCheck(ok);
}

let total = emptyTally();
try {
  await setup();
  if (args.length === 0) {
    const lint = await check("lint", [
      [packageCommand("@biomejs/biome", "biome"), "check", "--error-on-warnings", "."],
      [join("scripts", "format-native.mjs"), "--check"],
    ]);
    const types = await check("types", [
      [packageCommand("typescript", "tsc"), "-p", "tsconfig.json"],
      [packageCommand("typescript", "tsc"), "-p", "tsconfig.scripts.json"],
      [packageCommand("typescript", "tsc"), "-p", join("playground", "tsconfig.json")],
    ]);
    total = sum(lint, types);
    console.log("\n== tests");
  }
  total = sum(total, await runVitest(args));
} catch (error) {
  printProblem(error);
  total = sum(total, tallyCheck(false));
}
console.log(`\n${finalLine(total)}`);
process.exitCode = exitCodeOf(total);
