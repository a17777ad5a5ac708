// Set-up: npm packages, libtorch, the addon, dist/. Does only what is stale.
import { addonStaleness, needsNvcc, provideAddon } from "./addon.mjs";
import { requireCudaTools } from "./cuda.mjs";
import { fetchLibtorch, fetchRemedies } from "./fetch-libtorch.mjs";
import { describeAttempts, findLibtorch, versionRange } from "./libtorch.mjs";
import { withLock } from "./lock.mjs";
import { installPackages, packagesStaleness } from "./packages.mjs";
import { pathsOf, projectRoot } from "./paths.mjs";
import { SetupProblem } from "./problem.mjs";
import { elapsed, Progress } from "./progress.mjs";
import { requireBuildTools, requireNode, requirePip, requirePlatform } from "./toolchain.mjs";
import { compileTypeScript, distStaleness } from "./typescript.mjs";

/** The parts of set-up, in their order. */
export const parts = ["packages", "libtorch", "addon", "typescript"];

/** @type {import("./libtorch.mjs").Discovery} */
const notLookedFor = { libtorch: null, tried: [], fatal: false };

/** libtorch as far as it is here; throws if LIBTORCH names one that cannot be used. */
function discover(root, env) {
  const discovery = findLibtorch({ root, env });
  if (discovery.fatal) {
    throw new SetupProblem(
      "BAD_LIBTORCH",
      `LIBTORCH cannot be used: ${discovery.tried[0].path}: ${discovery.tried[0].refused}.`,
      [
        `point LIBTORCH at a folder with lib/ and include/ of libtorch ${versionRange}`,
        "or unset it: set-up then takes the active Python's torch, or fetches its own",
      ],
    );
  }
  return discovery;
}

/** What is stale now: a list of { part, reasons }. */
function plan({ root, env, wanted, force }) {
  // Asking Python takes a moment: only where the answer matters.
  const discovery = wanted.has("libtorch") || wanted.has("addon") ? discover(root, env) : notLookedFor;
  const stale = {
    packages: () => packagesStaleness({ root }),
    libtorch: () => (discovery.libtorch ? [] : ["none found"]),
    addon: () =>
      force
        ? ["asked for"]
        : discovery.libtorch
          ? addonStaleness(discovery.libtorch, { root, env })
          : ["no libtorch yet"],
    typescript: () => (force ? ["asked for"] : distStaleness({ root })),
  };
  const work = parts
    .filter((part) => wanted.has(part))
    .map((part) => ({ part, reasons: stale[part]() }))
    .filter(({ reasons }) => reasons.length > 0);
  return { discovery, work };
}

/**
 * Brings the checkout up to date. Returns at once, printing nothing, when nothing is stale.
 * @param {object} [options]
 * @param {string} [options.root]
 * @param {NodeJS.ProcessEnv} [options.env]
 * @param {Iterable<string>} [options.only] some of `parts`; default all
 * @param {boolean} [options.force] build the addon and dist/ from scratch
 * @param {Progress} [options.progress]
 * @returns {Promise<{ did: string[], milliseconds: number }>}
 */
export async function setup({
  root = projectRoot,
  env = process.env,
  only = parts,
  force = false,
  progress = new Progress(),
} = {}) {
  const started = Date.now();
  requirePlatform();
  requireNode();
  const wanted = new Set(only);
  const first = plan({ root, env, wanted, force });
  if (first.work.length === 0) return { did: [], milliseconds: Date.now() - started };

  const did = await withLock(
    pathsOf(root).lock,
    async () => {
      // Again: another set-up may have done it while we waited.
      const { discovery, work } = plan({ root, env, wanted, force });
      const names = work.map(({ part }) => part);
      if (names.length === 0) return [];
      // Ask for missing tools now, not after minutes of work.
      if (names.includes("libtorch")) requirePip(env);
      if (names.includes("addon")) requireBuildTools(env);
      if (names.includes("addon") && discovery.libtorch && needsNvcc(discovery.libtorch, root)) {
        requireCudaTools(discovery.libtorch, env);
      }
      let { libtorch } = discovery;
      if (names.includes("libtorch") || names.includes("addon")) {
        for (const line of describeAttempts(discovery.tried)) progress.note(`libtorch: ${line}`);
      }
      progress.expect(names.length);
      const run = {
        packages: () => progress.step("npm packages", (report) => installPackages({ root, env, report })),
        libtorch: () =>
          progress.step("fetch libtorch (CPU)", async (report) => {
            libtorch = await fetchLibtorch({ root, env, report });
          }),
        addon: () => {
          if (!libtorch)
            throw new SetupProblem("NO_LIBTORCH", "The addon needs libtorch, and there is none.", fetchRemedies());
          const taken = libtorch;
          const kind = `libtorch ${taken.version}${taken.cuda ? ", CUDA" : ""}`;
          return progress.step(
            `build the addon (${kind})`,
            (report) => provideAddon(taken, { root, env, force, report }),
            (how) => (how === "built" ? "" : how),
          );
        },
        typescript: () => progress.step("compile TypeScript", () => compileTypeScript({ root, env, force })),
      };
      for (const name of names) await run[name]();
      return names;
    },
    {
      onWait: (pid) =>
        progress.note(`Another set-up is running here${pid ? ` (process ${pid})` : ""}: waiting for it.`),
    },
  );
  const milliseconds = Date.now() - started;
  if (did.length > 0) progress.note(`Set up in ${elapsed(milliseconds)}.`);
  return { did, milliseconds };
}

/** Prints a failure of set-up for people: what, and what to do. Anything unexpected keeps its stack. */
export function printProblem(error, stream = process.stderr) {
  if (!(error instanceof SetupProblem)) {
    stream.write(`${error?.stack ?? error}\n`);
    return;
  }
  stream.write(`\n${error.message} [${error.code}]\n`);
  if (error.mend.length > 0) stream.write(`What to do:\n${error.mend.map((line) => `  - ${line}`).join("\n")}\n`);
}
