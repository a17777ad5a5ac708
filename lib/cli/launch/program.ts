import { existsSync, statSync } from "node:fs";
import { extname, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { CliError } from "../errors.js";

/** What each process runs. */
export interface Program {
  command: string;
  args: string[];
}

const SCRIPTS = [".ts", ".mts", ".cts", ".js", ".mjs", ".cjs"];
const CURRICULA = [".yaml", ".yml"];

/**
 * What the words after the options ask for.
 *
 * @param isCommand they came after "--": any program, found as a shell would
 * @throws CliError if there is no such file, or nothing is known of its kind
 */
export function readProgram([first, ...rest]: readonly string[], isCommand: boolean): Program {
  if (isCommand) return ownCommand([first, ...rest]) ?? { command: first, args: rest };
  const kind = extname(first).toLowerCase();
  const isCurriculum = CURRICULA.includes(kind);
  if (!isCurriculum && !SCRIPTS.includes(kind)) {
    throw new CliError(
      `${first}: expected a .ts, .js or .yaml file. Another program comes after --: diffcoder launch ... -- ${first} ...`,
    );
  }
  const file = resolve(first);
  if (!existsSync(file)) throw new CliError(`${first}: no such file`);
  if (!statSync(file).isFile()) throw new CliError(`${first} is not a file`);
  return isCurriculum ? own("../main", ["train", first, ...rest]) : own("./script", [file, ...rest]);
}

/**
 * `npx diffcoder ...` is this very command line, so it is called without npx. npx would cost each process half a second,
 * and it ends at SIGTERM while the program under it still saves.
 */
function ownCommand(words: readonly string[]): Program | undefined {
  const [first, second, ...rest] = words;
  if (first === "npx" && second === "diffcoder") return own("../main", rest);
  return first === "diffcoder" ? own("../main", words.slice(1)) : undefined;
}

/** Runs a module of this folder, compiled or from source, with the Node that runs now. */
function own(module: string, args: readonly string[]): Program {
  const isSource = import.meta.url.endsWith(".ts");
  const file = fileURLToPath(new URL(`${module}.${isSource ? "ts" : "js"}`, import.meta.url));
  const loader = isSource ? ["--import", import.meta.resolve("tsx")] : [];
  return { command: process.execPath, args: [...loader, file, ...args] };
}
