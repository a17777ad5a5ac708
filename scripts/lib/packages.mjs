// npm packages: whether node_modules is what package-lock.json asks for, and the installation.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pathsOf, projectRoot } from "./paths.mjs";
import { SetupProblem } from "./problem.mjs";
import { runLogged } from "./run.mjs";

/**
 * Why packages must be installed, or an empty list. npm notes what it installed in node_modules/.package-lock.json.
 * @param {{ root?: string }} [options]
 */
export function packagesStaleness({ root = projectRoot } = {}) {
  const lockFile = join(root, "package-lock.json");
  if (!existsSync(lockFile)) return []; // installed as a dependency: npm has done it all
  let installed;
  try {
    installed = JSON.parse(readFileSync(join(root, "node_modules", ".package-lock.json"), "utf8")).packages;
  } catch {
    return ["node_modules is missing"];
  }
  const wanted = JSON.parse(readFileSync(lockFile, "utf8")).packages;
  const reasons = [];
  for (const [path, entry] of Object.entries(wanted)) {
    if (path === "" || entry.link) continue;
    const there = installed[path];
    if (!there) {
      if (!entry.optional) reasons.push(`${path} is missing`);
    } else if (there.version !== entry.version) {
      reasons.push(`${path} is ${there.version} instead of ${entry.version}`);
    } else if (!entry.optional && !existsSync(join(root, path, "package.json"))) {
      reasons.push(`${path} is missing`);
    }
  }
  return reasons;
}

/**
 * Installs what package-lock.json names. No package needs its install script, so none is run.
 * @param {{ root?: string, env?: NodeJS.ProcessEnv, report?: (detail: string) => void }} [options]
 */
export async function installPackages({ root = projectRoot, env = process.env, report = () => {} } = {}) {
  const { logs } = pathsOf(root);
  // Not npm ci: it insists that the lock file names the optional packages of every platform, and one written on one platform may not.
  // --no-save: set-up never edits package.json or package-lock.json.
  const args = ["install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--include=dev"];
  // Under `npm start` the npm that is running is the one to use.
  const [file, first] = env.npm_execpath?.endsWith(".js") ? [process.execPath, [env.npm_execpath]] : ["npm", []];
  try {
    await runLogged(file, [...first, ...args], { log: join(logs, "npm.log"), cwd: root, env, onLine: report });
  } catch (error) {
    const last = (error.lines ?? []).filter((line) => line.trim()).slice(-12);
    throw new SetupProblem("NPM_FAILED", `npm install failed:\n    ${last.join("\n    ") || error.message}`, [
      "check the network and npm's settings (npm config list), then run it again",
      "the whole log is .cache/logs/npm.log",
    ]);
  }
}
