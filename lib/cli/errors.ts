import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { shownPath } from "./terminal.js";

/** A mistake in how a command was called. Its message is shown alone, without a stack. */
export class CliError extends Error {
  override readonly name = "CliError";
  readonly code = "CLI_USAGE";
}

/**
 * What a person should see of an error: the message, and where in the user's own files it came from. The whole stack is
 * shown for a bug of this library, and for everything where DIFFCODER_DEBUG is set.
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
  // Thrown by the user's code itself, perhaps through a function of JavaScript's that has no file.
  if (own !== undefined && own === frames[0]) return `${shownPlace(own)}: ${error.name}: ${error.message}`;
  return error.stack ?? error.message;
}

interface Frame {
  path: string;
  line: string;
  column: string;
}

const FRAME = /^ {4}at (?:async )?(?:.*?\()?((?:file:\/\/)?\/[^()]*|[A-Za-z]:\\[^()]*):(\d+):(\d+)\)?$/;

/** The stack's frames that are in files, the innermost first. Node's own are not. */
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

/** Of a file that does not compile: what esbuild says, or Node where an import names an export that is not there. */
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
