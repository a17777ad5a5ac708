// npm run bench -- [NAME [PART...]]... [--json FILE] [options]: runs bench/NAME.ts; all of them without a NAME.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { projectRoot } from "./lib/paths.mjs";
import { runInherited } from "./lib/run.mjs";
import { printProblem, setup } from "./lib/setup.mjs";

const folder = join(projectRoot, "bench");
// Every file of bench/ is a benchmark; what they share lies in folders below it.
const available = (existsSync(folder) ? readdirSync(folder) : [])
  .filter((name) => name.endsWith(".ts"))
  .map((name) => name.slice(0, -3));

/** The parts of a benchmark that can be run alone: the files of bench/NAME/parts. */
function partsOf(name) {
  const at = join(folder, name, "parts");
  return (existsSync(at) ? readdirSync(at) : [])
    .filter((file) => file.endsWith(".ts"))
    .map((file) => file.slice(0, -3));
}

const described = available.map((name) => {
  const parts = partsOf(name);
  return parts.length > 0 ? `${name} (${parts.join(", ")})` : name;
});
const usage = `Usage: npm run bench -- [NAME [PART...]]... [--json FILE] [options of the benchmark]

Without NAME all benchmarks run, one after the other; without PART all parts of it. --json writes the
results, a list of { name, ours, peer, unit, ratio, spread }, to FILE.
Benchmarks: ${described.join(", ") || "none"}`;

/** Names come first, each with its parts; from the first option on everything but --json belongs to the benchmark. */
function parse(args) {
  const rest = [...args];
  const names = [];
  const parts = {};
  const options = [];
  let json = null;
  while (rest.length > 0 && !rest[0].startsWith("-")) {
    const word = rest.shift();
    const last = names.at(-1);
    if (last !== undefined && !available.includes(word) && partsOf(last).includes(word)) {
      parts[last] = [...(parts[last] ?? []), word];
    } else names.push(word);
  }
  while (rest.length > 0) {
    const arg = rest.shift();
    if (arg === "--json") json = rest.shift() ?? "";
    else if (arg.startsWith("--json=")) json = arg.slice("--json=".length);
    else options.push(arg);
  }
  return { names: names.length > 0 ? names : available, parts, options, json };
}

const { names, parts, options, json } = parse(process.argv.slice(2));
const unknown = names.filter((name) => !available.includes(name));
if (options.includes("--help") || options.includes("-h") || options.includes("--list")) {
  console.log(usage);
} else if (unknown.length > 0 || names.length === 0 || json === "") {
  console.error(unknown.length > 0 ? `There is no benchmark named ${unknown.join(", ")}.\n\n${usage}` : usage);
  process.exitCode = 2;
} else {
  const scratch = mkdtempSync(join(tmpdir(), "diffcoder-bench-"));
  try {
    await setup();
    const tsx = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;
    const results = [];
    for (const name of names) {
      if (names.length > 1) console.log(`\n== ${name}`);
      const file = join(scratch, `${name}.json`);
      const args = [
        "--import",
        tsx,
        "--expose-gc",
        join(folder, `${name}.ts`),
        ...(json === null ? [] : ["--json", file]),
        ...(parts[name] ?? []),
        ...options,
      ];
      const status = await runInherited(process.execPath, args, { cwd: projectRoot });
      if (status !== 0) {
        console.error(`${name} ended with exit code ${status}`);
        process.exitCode = status;
      } else if (json !== null) {
        const written = JSON.parse(readFileSync(file, "utf8"));
        results.push(...(Array.isArray(written) ? written : [written]));
      }
    }
    // A list that lacks a benchmark would look like a whole one.
    if (json !== null && !process.exitCode) writeFileSync(resolve(json), `${JSON.stringify(results, null, 2)}\n`);
  } catch (error) {
    printProblem(error);
    process.exitCode = 1;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
