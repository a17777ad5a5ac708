import { type ChildProcess, spawn } from "node:child_process";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, afterEach } from "vitest";

const tsx = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;
const running = new Set<ChildProcess>();

function killAll(): void {
  for (const child of running) child.kill("SIGKILL");
}

// A test that fails or runs out of time leaves nobody behind; nor does a worker that is stopped.
afterEach(killAll);
afterAll(killAll);
process.on("exit", killAll);

export interface RankOptions {
  /** How many ranks. Default 2. */
  size?: number;
  args?: readonly string[];
  env?: NodeJS.ProcessEnv;
  /** Seconds after which all ranks are killed. Default 50. */
  timeout?: number;
}

/** How a rank's process ended, and what it reported through `report` or `asRank` of rank.ts: undefined for nothing. */
export interface RankEnd<T = unknown> {
  rank: number;
  code: number | null;
  signal: NodeJS.Signals | null;
  result: T | undefined;
  stdout: string;
  stderr: string;
}

/** A rank under way, for tests that send signals. */
export interface Rank<T = unknown> {
  readonly rank: number;
  readonly child: ChildProcess;
  /** Settles when the process has ended, well or not. Never rejects. */
  readonly ended: Promise<RankEnd<T>>;
}

/** A TCP port of this machine that nobody listens at. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.on("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address ? address.port : 0));
    });
  });
}

/**
 * Starts the ranks of a job, as torchrun would. Each runs a TypeScript file of test/distributed/children/ in a process of
 * its own; all are killed when the test ends.
 *
 * @param name the file's name, or its URL
 */
export async function startRanks<T>(name: string | URL, options: RankOptions = {}): Promise<Rank<T>[]> {
  const { size = 2, args = [], env, timeout = 280 } = options;
  const port = await freePort();
  const file = fileURLToPath(new URL(name, new URL("children/", import.meta.url)));
  return Array.from({ length: size }, (_, rank) => {
    const launch = { RANK: rank, WORLD_SIZE: size, LOCAL_RANK: rank, LOCAL_WORLD_SIZE: size };
    const child = spawn(process.execPath, ["--import", tsx, file, ...args], {
      env: {
        ...process.env,
        OMP_NUM_THREADS: "1",
        NO_COLOR: "1",
        FORCE_COLOR: undefined,
        ...Object.fromEntries(Object.entries(launch).map(([key, value]) => [key, String(value)])),
        MASTER_ADDR: "127.0.0.1",
        MASTER_PORT: String(port),
        ...env,
      },
      stdio: ["ignore", "pipe", "pipe", "ipc"],
      serialization: "advanced", // numbers that are not finite, and typed arrays, arrive as they are
    });
    return { rank, child, ended: endOf<T>(child, rank, timeout) };
  });
}

function endOf<T>(child: ChildProcess, rank: number, timeout: number): Promise<RankEnd<T>> {
  const end: RankEnd<T> = { rank, code: null, signal: null, result: undefined, stdout: "", stderr: "" };
  running.add(child);
  const timer = setTimeout(() => {
    end.stderr += `\n[killed: rank ${rank} did not end within ${timeout} s]`;
    child.kill("SIGKILL");
  }, timeout * 1000);
  child.stdout?.on("data", (chunk) => (end.stdout += String(chunk)));
  child.stderr?.on("data", (chunk) => (end.stderr += String(chunk)));
  child.on("message", (message) => (end.result = (message as { result: T }).result));
  return new Promise((resolve) => {
    const settle = () => {
      clearTimeout(timer);
      running.delete(child);
      resolve(end);
    };
    child.on("error", (error) => {
      end.stderr += String(error);
      settle();
    });
    child.on("close", (code, signal) => {
      Object.assign(end, { code, signal });
      settle();
    });
  });
}

/**
 * Runs ranks to their end and gives what they reported, by rank. When one fails the others, which may be waiting for it,
 * are killed after two seconds.
 *
 * @throws an Error with the output of every rank that failed
 */
export async function runRanks<T>(name: string | URL, options: RankOptions = {}): Promise<T[]> {
  const ranks = await startRanks<T>(name, options);
  let grace: NodeJS.Timeout | undefined;
  const ends = await Promise.all(
    ranks.map(async ({ ended }) => {
      const end = await ended;
      if (end.code !== 0) grace ??= setTimeout(() => kill(ranks), 2000);
      return end;
    }),
  );
  clearTimeout(grace);
  const failed = ends.filter(({ code, result }) => code !== 0 || result === undefined);
  if (failed.length > 0) throw new Error(failed.map(describeEnd).join("\n\n"));
  return ends.map(({ result }) => result as T);
}

function kill(ranks: readonly Rank[]): void {
  for (const { child } of ranks) child.kill("SIGKILL");
}

function describeEnd({ rank, code, signal, result, stdout, stderr }: RankEnd): string {
  const how = code === 0 && result === undefined ? "reported nothing" : `ended with ${signal ?? `code ${code}`}`;
  return [`rank ${rank} ${how}`, stdout.trim(), stderr.trim()].filter(Boolean).join("\n");
}
