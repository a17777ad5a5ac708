import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { shownPath } from "./terminal.js";

/** An error in the usage of a command. Its message is shown without a stack. */
export class CliError extends Error {
  override readonly name = "CliError";
  readonly code = "CLI_USAGE";
}

/**
 * Formats an error for a user: the message, and its location in the user's own files. The whole stack is shown for a
 * bug of this library, and for every error if DIFFCODER_DEBUG is set.
 */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (process.env.DIFFCODER_DEBUG) return error.stack ?? error.message;
  const syntax = syntaxError(error);
  if (syntax !== undefined) return syntax;
  const frames = framesOf(error);
  const own = frames.find(isUsers);
  if (typeof (error as { code?: unknown }).code === "string") {
    return own === undefined ? error.message : `${error.message}\n  at ${shownPlace(own)}`;
  }
  // Thrown by the user's code itself, possibly through a built-in function of JavaScript.
  if (own !== undefined && own === frames[0]) return `${shownPlace(own)}: ${error.name}: ${error.message}`;
  return error.stack ?? error.message;
}

interface Frame {
  path: string;
  line: string;
  column: string;
}

const FRAME = /^ {4}at (?:async )?(?:.*?\()?((?:file:\/\/)?\/[^()]*|[A-Za-z]:\\[^()]*):(\d+):(\d+)\)?$/;

/** The stack frames in files, innermost first, without Node's own. */
function framesOf(error: Error): Frame[] {
  return (error.stack ?? "").split("\n").flatMap((text) => {
    const match = FRAME.exec(text);
    if (match === null) return [];
    const [, file, line, column] = match;
    const path = (file.startsWith("file://") ? fileURLToPath(file) : file).replace(/\?.*$/, "");
    return [{ path, line, column }];
  });
}

const OWN_FOLDERS = ["../../dist/", "../../lib/", "../../bin/", "../../test/"].map((folder) =>
  fileURLToPath(new URL(folder, import.meta.url)),
);

function isUsers({ path }: Frame): boolean {
  return !/[\\/]node_modules[\\/]/.test(path) && !OWN_FOLDERS.some((folder) => path.startsWith(folder));
}

function shownPlace({ path, line, column }: Frame): string {
  return `${shownPath(path)}:${line}:${column}`;
}

/** The message for a file that does not compile: esbuild's, or Node's for an import of a missing export. */
function syntaxError(error: Error): string | undefined {
  if (error.name === "TransformError") {
    const places = [...error.message.matchAll(/^(.+):(\d+):(\d+): ERROR: (.*)$/gm)];
    if (places.length === 0) return error.message;
    const lines = places.map(([, path, line, column, text]) => {
      return `${shownPlace({ path, line, column: String(Number(column) + 1) })}: SyntaxError: ${text}`;
    });
    return lines.join("\n");
  }
  const place = /^(.*):(\d+)\n/.exec(error.stack ?? "");
  if (!(error instanceof SyntaxError) || place === null || !existsSync(place[1].replace(/^file:\/\//, "")))
    return undefined;
  return `${shownPath(place[1].replace(/^file:\/\//, ""))}:${place[2]}: SyntaxError: ${error.message}`;
}
