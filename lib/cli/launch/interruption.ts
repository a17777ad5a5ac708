import { type ChildProcess, spawn } from "node:child_process";

/** Signals within this time count as one: a terminal sends Ctrl-C to npx and to this process, and npx forwards it. */
const ONE_SIGNAL_MS = 250;

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * Signals to the launcher: SIGINT, SIGTERM and SIGHUP. The first one makes the ranks save and end; a second one ends
 * them immediately. A closing terminal may send SIGHUP more than once, so SIGHUP never counts as the second.
 */
export class Interruption implements Disposable {
  /** The first signal, once it has arrived. */
  name: NodeJS.Signals | undefined;
  /** The second signal. */
  again: NodeJS.Signals | undefined;
  #at = 0;
  #listener: (() => void) | undefined;
  readonly #watch: NodeJS.Timeout | undefined;

  constructor(env: NodeJS.ProcessEnv) {
    for (const name of SIGNALS) process.on(name, this.raise);
    // On SIGTERM npx ends its shell and itself without forwarding the signal.
    const parent = process.ppid;
    if (env.npm_command !== "exec" || parent <= 1) return;
    this.#watch = setInterval(() => {
      if (process.ppid !== parent && this.name === undefined) this.raise("SIGTERM");
    }, 500).unref();
  }

  /** Acts as if the signal had arrived. */
  raise = (name: NodeJS.Signals): void => {
    if (this.name === undefined) {
      this.name = name;
      this.#at = performance.now();
    } else if (name === "SIGHUP" || this.again !== undefined || performance.now() - this.#at < ONE_SIGNAL_MS) {
      return;
    } else {
      this.again = name;
    }
    this.#listener?.();
  };

  /** Calls the function at the first and at the second signal; it replaces the previous listener. */
  listen(listener: (() => void) | undefined): void {
    this.#listener = listener;
  }

  [Symbol.dispose](): void {
    for (const name of SIGNALS) process.off(name, this.raise);
    clearInterval(this.#watch);
  }
}

/**
 * A guard process that outlives the launcher to end the ranks. It reads "+ GROUP" and "- GROUP" from a pipe that only
 * the launcher holds open. The kernel closes the pipe however the launcher dies; the remaining groups then get SIGTERM,
 * and SIGKILL after the grace period. It is a shell script, because it must be small and start quickly. $1: tenths of a
 * second to wait.
 */
const SCRIPT = `
trap '' HUP INT TERM PIPE
groups=' '
while read -r sign group; do
  case $sign in
    +) groups="$groups$group " ;;
    -) groups="\${groups%% $group *} \${groups#* $group }" ;;
  esac
done
for group in $groups; do kill -s TERM -- "-$group"; done 2>/dev/null
left=$1
while [ "$left" -gt 0 ]; do
  alive=
  for group in $groups; do kill -s 0 -- "-$group" && alive=1; done 2>/dev/null
  [ -n "$alive" ] || exit 0
  sleep 0.1
  left=$((left - 1))
done
for group in $groups; do kill -s KILL -- "-$group"; done 2>/dev/null
exit 0
`;

/** Ends process groups if this process dies before it can. A guard that is killed is replaced. */
export class Guard {
  readonly #graceSeconds: number;
  readonly #groups = new Set<number>();
  #process: ChildProcess | undefined;
  #ended: Promise<void> = Promise.resolve();
  #closing = false;

  constructor(graceSeconds: number) {
    this.#graceSeconds = graceSeconds;
    this.#start();
  }

  add(group: number): void {
    this.#groups.add(group);
    this.#write(`+ ${group}\n`);
  }

  remove(group: number): void {
    if (this.#groups.delete(group)) this.#write(`- ${group}\n`);
  }

  /** Closes the pipe. The guard ends the groups that were not removed. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#process?.stdin?.end();
    await this.#ended;
  }

  #start(): void {
    const tenths = String(Math.round(this.#graceSeconds * 10));
    // A separate session, which neither Ctrl-C nor a closed terminal reaches.
    const guard = spawn("/bin/sh", ["-c", SCRIPT, "diffcoder-launch-guard", tenths], {
      detached: true,
      cwd: "/",
      stdio: ["pipe", "ignore", "ignore"],
    });
    this.#process = guard;
    guard.stdin.on("error", () => {}); // write errors are ignored, because the end of the process is handled
    this.#ended = new Promise((resolve) => {
      guard.on("error", (error) => {
        process.stderr.write(`warning: the processes will not be ended if this launcher is killed: ${error.message}\n`);
        this.#process = undefined;
        resolve();
      });
      guard.on("exit", () => {
        resolve();
        if (!this.#closing) this.#start();
      });
    });
    for (const group of this.#groups) this.#write(`+ ${group}\n`);
  }

  #write(line: string): void {
    this.#process?.stdin?.write(line);
  }
}
