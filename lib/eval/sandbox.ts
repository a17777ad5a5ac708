import { type ChildProcess, type SpawnOptions, spawn, spawnSync } from "node:child_process";
import { accessSync, constants, existsSync, realpathSync } from "node:fs";
import { delimiter, join } from "node:path";
import { EvaluationError } from "./errors.js";

/** What a process may use up. */
export interface Limits {
  /** Processor time of each process, in seconds. */
  cpuSeconds: number;
  /** Address space of each process, in bytes; undefined for runtimes that reserve far more than they use. */
  memoryBytes?: number;
  /** Processes and threads together. */
  processes: number;
  /** Size of a file, and of everything in /tmp together, in bytes. */
  fileBytes: number;
}

export const DEFAULT_LIMITS: Limits = {
  cpuSeconds: 10,
  memoryBytes: 4 * 2 ** 30,
  processes: 32,
  fileBytes: 64 * 2 ** 20,
};

/** Folders of the system that programs see, all read-only. Home folders, /var, /run, /srv and the working directory are absent. */
const SYSTEM = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/opt", "/etc"];
const PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** The user that programs run as if the harness runs as root, because the limit on processes does not apply to root. */
const NOBODY = 65_534;

/**
 * Starts untrusted programs in bubblewrap, without a network, with a read-only system, an empty /tmp in memory, a
 * process namespace and a session of their own, and limits on time, memory, processes and files.
 */
export class Sandbox {
  readonly isolated: boolean;
  readonly #identity: Pick<SpawnOptions, "uid" | "gid">;
  readonly #binds: readonly string[];

  private constructor(isolated: boolean, identity: Pick<SpawnOptions, "uid" | "gid">, binds: readonly string[]) {
    this.isolated = isolated;
    this.#identity = identity;
    this.#binds = binds;
  }

  /**
   * Looks for bubblewrap and tries it.
   *
   * @param options.readable more folders that programs may read
   * @throws EvaluationError EVAL_SANDBOX where programs cannot be isolated, unless `allowUnsandboxed`
   */
  static create(options: { allowUnsandboxed?: boolean; readable?: readonly string[] } = {}): Sandbox {
    const { allowUnsandboxed = false, readable = [] } = options;
    const isRoot = process.getuid?.() === 0;
    const identities = isRoot ? [{ uid: NOBODY, gid: NOBODY }, {}] : [{}];
    let problem = "bwrap is not on the PATH";
    if (findProgram("bwrap") !== undefined) {
      for (const identity of identities) {
        const sandbox = new Sandbox(true, identity, readable);
        const { file, args } = sandbox.#command(["true"], DEFAULT_LIMITS);
        const probe = spawnSync(file, args, { ...identity, encoding: "utf8", timeout: 20_000 });
        if (probe.status === 0) return sandbox;
        problem = `bwrap fails: ${(probe.stderr || String(probe.error ?? probe.signal)).trim()}`;
      }
    }
    if (allowUnsandboxed) return new Sandbox(false, {}, []);
    throw new EvaluationError(
      "EVAL_SANDBOX",
      `programs that a model wrote are not run without isolation, and ${problem}. Install bubblewrap (Debian: apt-get ` +
        "install bubblewrap), or pass --allow-unsandboxed (allowUnsandboxed: true) to run them with your own permissions",
    );
  }

  /** Whether a tool is there for programs: on the system's own PATH, and not in a home folder. */
  has(tool: string): boolean {
    return findProgram(tool, this.isolated ? PATH : process.env.PATH) !== undefined;
  }

  /**
   * Starts a command. The caller ends it with {@link endGroup}.
   *
   * @param stdio as for `spawn`; descriptors from 3 on reach the command
   * @param files by path in the sandbox the descriptor that its text is read from
   */
  start(
    argv: readonly string[],
    limits: Limits,
    stdio: SpawnOptions["stdio"],
    files: ReadonlyMap<string, number> = new Map(),
  ): ChildProcess {
    const { file, args } = this.#command(argv, limits, files);
    return spawn(file, args, {
      ...this.#identity,
      stdio,
      detached: true,
      cwd: "/",
      env: this.isolated ? {} : process.env,
    });
  }

  #command(argv: readonly string[], limits: Limits, files: ReadonlyMap<string, number> = new Map()) {
    const { cpuSeconds, memoryBytes, processes, fileBytes } = limits;
    const seconds = Math.max(1, Math.ceil(cpuSeconds));
    const limited = [
      "prlimit",
      ...[
        `--cpu=${seconds}:${seconds + 1}`,
        `--nproc=${processes}`,
        `--fsize=${fileBytes}`,
        "--core=0",
        "--nofile=256",
      ],
      ...(memoryBytes === undefined ? [] : [`--as=${memoryBytes}`]),
      "--",
      ...argv,
    ];
    if (!this.isolated) {
      // The limit on processes counts all of the user's, so it cannot be set here.
      return { file: "prlimit", args: limited.slice(1).filter((word) => !word.startsWith("--nproc")) };
    }
    const binds = [...SYSTEM.filter((folder) => existsSync(folder)), ...this.#binds];
    const args = [
      ...["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"],
      ...["--setenv", "PATH", PATH, "--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8"],
      ...binds.flatMap((folder) => ["--ro-bind", folder, folder]),
      ...["--proc", "/proc", "--dev", "/dev", "--size", String(fileBytes), "--tmpfs", "/tmp"],
      ...["--remount-ro", "/"],
      ...[...files].flatMap(([path, descriptor]) => ["--file", String(descriptor), path]),
      ...["--chdir", "/tmp", "--", ...limited],
    ];
    return { file: "bwrap", args };
  }
}

/** Kills a process that {@link Sandbox.start} started, and everything that it started. */
export function endGroup(child: ChildProcess): void {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch {
    // It has just ended.
  }
  child.kill("SIGKILL");
}

/** The path of a program, undefined if it is not there. */
export function findProgram(name: string, path = process.env.PATH ?? ""): string | undefined {
  for (const folder of name.includes("/") ? [""] : path.split(delimiter)) {
    const file = folder === "" ? name : join(folder, name);
    try {
      accessSync(file, constants.X_OK);
      return realpathSync(file);
    } catch {
      // Look further.
    }
  }
  return undefined;
}
