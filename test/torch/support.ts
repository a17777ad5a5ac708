import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, expect } from "vitest";
import type * as torch from "../../lib/torch/index.js";
import { heldTensors } from "./held-tensors.js";

/** Matches a TorchError by its code and, where given, its message and operator. */
export function torchError(code: torch.TorchErrorCode, message?: RegExp, operator?: string): torch.TorchError {
  return expect.objectContaining({
    name: "TorchError",
    code,
    ...(message && { message: expect.stringMatching(message) }),
    ...(operator && { operator }),
  }) as torch.TorchError;
}

/** What a call throws. Fails when it throws nothing. */
export function thrownBy(call: () => unknown): unknown {
  try {
    call();
  } catch (error) {
    return error;
  }
  expect.fail("nothing was thrown");
}

/** The number of live tensors that `run` leaves behind. */
export function leftBehind(run: () => unknown): number {
  const before = heldTensors();
  run();
  return heldTensors() - before;
}

/** A folder that goes with the test file. */
export function scratchFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "diffcoder-torch-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

const tsx = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;

export interface Finished {
  status: number | null;
  signal: NodeJS.Signals | null;
  output: string;
}

/** Runs a file of test/torch/children/ in a Node of its own: for what may crash, or must not be disturbed. */
export function runChild(
  name: string,
  args: readonly string[] = [],
  command: readonly string[] = [],
): Promise<Finished> {
  const file = fileURLToPath(new URL(`./children/${name}`, import.meta.url));
  expect(existsSync(file)).toBe(true);
  const [program, ...rest] = [...command, process.execPath, "--import", tsx, file, ...args];
  return new Promise((resolve, reject) => {
    const child = spawn(program, rest, { stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (output += String(chunk)));
    child.on("error", reject);
    child.on("close", (status, signal) => resolve({ status, signal, output }));
  });
}
