import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, expect } from "vitest";
import { setup } from "../../scripts/lib/setup.mjs";
import { root } from "../cli/support.js";

const BIN = join(root, "bin", "diffcoder.mjs");
/** A variable that all processes of a launcher inherit, by which they are found again. */
const MARK = "DIFFCODER_TEST_MARK";

/** A folder for the programs of a file's tests. dist/ is up to date when they begin. */
export function programFolder() {
  const folder = {
    path: "",
    /** Writes a program; gives back its path. */
    file(name: string, text: string): string {
      const path = join(folder.path, name);
      writeFileSync(path, text);
      return path;
    },
  };
  beforeAll(async () => {
    folder.path = mkdtempSync(join(tmpdir(), "diffcoder-launch-"));
    await setup({ only: ["typescript"] });
  });
  afterAll(() => rmSync(folder.path, { recursive: true, force: true }));
  return folder;
}

export interface StartOptions {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  /** Instead of the launcher. */
  command?: string[];
}

/** A launcher that runs. */
export class Launcher {
  stdout = "";
  stderr = "";
  /** Its exit code, or the signal that ended it. */
  readonly ended: Promise<number | NodeJS.Signals>;
  readonly #mark = randomUUID();
  readonly #child: ChildProcess;
  readonly #waiting = new Set<() => void>();

  constructor(
    args: readonly string[],
    { cwd = root, env, command = [process.execPath, BIN, "launch"] }: StartOptions = {},
  ) {
    const variables = { ...process.env, NO_COLOR: "1", FORCE_COLOR: undefined, OMP_NUM_THREADS: "1", ...env };
    this.#child = spawn(command[0], [...command.slice(1), ...args], {
      cwd,
      env: { ...variables, [MARK]: this.#mark },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const hear = (name: "stdout" | "stderr") => (chunk: Buffer) => {
      this[name] += chunk;
      for (const check of this.#waiting) check();
    };
    this.#child.stdout?.on("data", hear("stdout"));
    this.#child.stderr?.on("data", hear("stderr"));
    this.ended = new Promise((resolve, reject) => {
      this.#child.on("error", reject);
      this.#child.on("close", (code, signal) => resolve(code ?? (signal as NodeJS.Signals)));
    });
    running.add(this);
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  get output(): string {
    return this.stdout + this.stderr;
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Reads no more of what it prints. */
  closeOutput(): void {
    this.#child.stdout?.destroy();
  }

  /** Waits until its output matches so many times. */
  async says(pattern: RegExp, times = 1): Promise<void> {
    const all = new RegExp(pattern.source, `${pattern.flags}g`);
    const isThere = () => (this.output.match(all)?.length ?? 0) >= times;
    if (isThere()) return;
    await new Promise<void>((resolve, reject) => {
      const check = () => {
        if (isThere()) resolve();
      };
      this.#waiting.add(check);
      void this.ended.then(() => reject(new Error(`it ended without ${pattern}:\n${this.output}`)));
    });
  }

  /** Processes of it that are there now: command lines. */
  left(): string[] {
    return processesWith(`${MARK}=${this.#mark}`).map(({ command }) => command);
  }

  /** Waits until none of its processes is there; fails with what is. */
  async leavesNothing(seconds = 5): Promise<void> {
    const end = Date.now() + seconds * 1000;
    while (this.left().length > 0 && Date.now() < end) await sleep(20);
    expect(this.left()).toEqual([]);
  }

  /** Ends whatever is left of it. */
  async clear(): Promise<void> {
    for (const { pid } of processesWith(`${MARK}=${this.#mark}`)) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // gone in the meantime
      }
    }
    await this.ended;
  }
}

const running = new Set<Launcher>();
afterEach(async () => {
  const all = [...running];
  running.clear();
  await Promise.all(all.map((launcher) => launcher.clear()));
});

/** Runs `diffcoder launch` to its end, and makes sure that nothing of it is left. */
export async function launch(args: readonly string[], options: StartOptions = {}) {
  const launcher = new Launcher(args, options);
  const code = await launcher.ended;
  await launcher.leavesNothing(0);
  const { stdout, stderr } = launcher;
  return { code, stdout, stderr, lines: stdout.trimEnd().split("\n") };
}

/** The processes in whose environment a text is. Those that ended and were not fetched (zombies) have none and count, too. */
function processesWith(variable: string): { pid: number; command: string }[] {
  if (!existsSync("/proc/self/environ")) return []; // elsewhere only root may see it
  const found: { pid: number; command: string }[] = [];
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      if (!readFileSync(`/proc/${name}/environ`, "latin1").split("\0").includes(variable)) continue;
      const command = readFileSync(`/proc/${name}/cmdline`, "latin1").replaceAll("\0", " ").trim();
      found.push({ pid: Number(name), command });
    } catch {
      // gone in the meantime
    }
  }
  return found;
}
