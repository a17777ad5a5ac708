import { spawn } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect } from "vitest";
import { StableDiffCoder } from "../../lib/checkpoint/index.js";
import { setup } from "../../scripts/lib/setup.mjs";

export const root = fileURLToPath(new URL("../../", import.meta.url));
export const TOKENIZER = join(root, "assets", "tokenizer");

export interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  input?: string;
  /** The process gets this signal once its output matches. */
  interrupt?: { signal: NodeJS.Signals; after: RegExp };
}

/** Runs a command and waits for it. */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<Ended> {
  const { cwd = root, env, input = "", interrupt } = options;
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, OMP_NUM_THREADS: "1", NO_COLOR: "1", FORCE_COLOR: undefined, ...env },
      stdio: ["pipe", "pipe", "pipe"],
    });
    const ended: Ended = { code: null, stdout: "", stderr: "" };
    let sent = false;
    const hear = (stream: "stdout" | "stderr") => (chunk: Buffer) => {
      ended[stream] += chunk;
      if (sent || !interrupt?.after.test(ended.stdout + ended.stderr)) return;
      sent = true;
      child.kill(interrupt.signal);
    };
    child.stdout.on("data", hear("stdout"));
    child.stderr.on("data", hear("stderr"));
    child.on("error", reject);
    child.on("close", (code) => resolve({ ...ended, code }));
    child.stdin.on("error", () => {}); // it may end without having read
    child.stdin.end(input);
  });
}

/** Runs the command line as a user does: through bin/, compiled. */
export function diffcoder(args: readonly string[], options: RunOptions = {}): Promise<Ended> {
  return run(process.execPath, [join(root, "bin", "diffcoder.mjs"), ...args], options);
}

/** A folder for the tests of a file, which is gone after them. dist/ is up to date when they begin. */
export function scratchFolder(): { path: string } {
  const folder = { path: "" };
  beforeAll(async () => {
    folder.path = mkdtempSync(join(tmpdir(), "diffcoder-cli-"));
    await setup({ only: ["typescript"] });
  });
  afterAll(() => rmSync(folder.path, { recursive: true, force: true }));
  return folder;
}

/** A small folder of real code: some of this library's own. */
export function someCode(parent: string): string {
  const folder = join(parent, "code");
  for (const area of ["torch", "model", "data", "diffusion"]) {
    mkdirSync(join(folder, area), { recursive: true });
    const from = join(root, "lib", area);
    for (const name of readdirSync(from).filter((file) => file.endsWith(".ts"))) {
      cpSync(join(from, name), join(folder, area, name));
    }
  }
  return folder;
}

/** A model with random weights and the code tokenizer: it writes nonsense, always the same. */
export function smallModel({ maxPositionEmbeddings = 512 } = {}): StableDiffCoder {
  const shape = {
    vocabSize: 4096,
    hiddenSize: 64,
    intermediateSize: 128,
    numLayers: 2,
    numHeads: 2,
    numKeyValueHeads: 1,
    maxPositionEmbeddings,
    ...{ bosTokenId: 0, padTokenId: 1, eosTokenId: 2, maskTokenId: 5 },
  };
  return StableDiffCoder.fromConfig(shape, { tokenizer: TOKENIZER, seed: 3 });
}

/** A checkpoint with random weights and the code tokenizer: it writes nonsense, in no time. */
export async function smallCheckpoint(folder: string): Promise<string> {
  using coder = smallModel();
  await coder.savePretrained(folder);
  return folder;
}

/** The events in a run's metrics.jsonl. */
export function eventsOf(out: string): { type: string; globalStep: number; [field: string]: unknown }[] {
  const lines = readFileSync(join(out, "metrics.jsonl"), "utf8").trim().split("\n");
  return lines.map((line) => JSON.parse(line));
}

/** A mistake of the user's is explained without a stack. */
export function expectExplained({ code, stdout, stderr }: Ended, message: RegExp): void {
  expect(stderr).toMatch(message);
  expect(stderr).toMatch(/^(.*\n)*error: /);
  expect(stderr).not.toMatch(/\n {4}at /);
  expect(stdout).not.toMatch(/error/i);
  expect(code).toBe(1);
}
