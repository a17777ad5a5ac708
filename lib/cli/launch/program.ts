import { existsSync, statSync } from "node:fs";
import { extname, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { CliError } from "../errors.js";

/** The program that each process runs. */
export interface Program {
  command: string;
  args: string[];
}

const SCRIPTS = [".ts", ".mts", ".cts", ".js", ".mjs", ".cjs"];
const CURRICULA = [".yaml", ".yml"];

/**
 * Parses the words after the options.
 *
 * @param isCommand whether they came after "--": any program, searched for as in a shell
 * @throws CliError if the file does not exist or has an unsupported extension
 */
export function readProgram([first, ...rest]: readonly string[], isCommand: boolean): Program {
  if (isCommand) return ownCommand([first, ...rest]) ?? { command: first, args: rest };
  const kind = extname(first).toLowerCase();
  const isCurriculum = CURRICULA.includes(kind);
  if (!isCurriculum && !SCRIPTS.includes(kind)) {
    throw new CliError(
      `${first}: expected a .ts, .js or .yaml file. For another program use --: diffcoder launch ... -- ${first} ...`,
    );
  }
  const file = resolve(first);
  if (!existsSync(file)) throw new CliError(`${first}: no such file`);
  if (!statSync(file).isFile()) throw new CliError(`${first} is not a file`);
  return isCurriculum ? own("../main", ["train", first, ...rest]) : own("./script", [file, ...rest]);
}

/**
 * Runs `npx diffcoder ...` without npx, because it is this command line itself. npx would cost each process half a
 * second, and it ends on SIGTERM while its program is still saving.
 */
function ownCommand(words: readonly string[]): Program | undefined {
  const [first, second, ...rest] = words;
  if (first === "npx" && second === "diffcoder") return own("../main", rest);
  return first === "diffcoder" ? own("../main", words.slice(1)) : undefined;
}

/** Runs a module of this folder, compiled or from source, with the current Node. */
function own(module: string, args: readonly string[]): Program {
  const isSource = import.meta.url.endsWith(".ts");
  const file = fileURLToPath(new URL(`${module}.${isSource ? "ts" : "js"}`, import.meta.url));
  const loader = isSource ? ["--import", import.meta.resolve("tsx")] : [];
  return { command: process.execPath, args: [...loader, file, ...args] };
}
