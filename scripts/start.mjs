// npm start: set-up, then the quickstart. Arguments go to the quickstart: npm start -- --minutes 2
import { existsSync } from "node:fs";
import { join } from "node:path";
import { projectRoot } from "./lib/paths.mjs";
import { SetupProblem } from "./lib/problem.mjs";
import { runInherited } from "./lib/run.mjs";
import { printProblem, setup } from "./lib/setup.mjs";

try {
  await setup();
  const main = join(projectRoot, "dist", "cli", "main.js");
  if (!existsSync(main))
    throw new SetupProblem("NO_CLI", "dist/cli/main.js was not compiled.", ["npm run setup -- --force"]);
  process.exitCode = await runInherited(process.execPath, [main, "quickstart", ...process.argv.slice(2)]);
} catch (error) {
  printProblem(error);
  process.exitCode = 1;
}
