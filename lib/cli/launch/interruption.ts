import { type ChildProcess, spawn } from "node:child_process";

/** Two signals so close together are one: a terminal sends Ctrl-C to npx and to us, and npx passes it on. */
const ONE_SIGNAL_MS = 250;

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * Signals to the launcher: SIGINT, SIGTERM and SIGHUP. The first one makes the ranks end, which save; a second
 * one ends them at once. A terminal that closes may say SIGHUP more than once, so that is never a second.
 */
export class Interruption implements Disposable {
  /** The first signal, once there was one. */
  name: NodeJS.Signals | undefined;
  /** The second one. */
  again: NodeJS.Signals | undefined;
  #at = 0;
  #listener: (() => void) | undefined;
  readonly #watch: NodeJS.Timeout | undefined;

  constructor(env: NodeJS.ProcessEnv) {
    for (const name of SIGNALS) process.on(name, this.raise);
    // At SIGTERM npx ends its shell and itself, and sends us nothing.
    const parent = process.ppid;
    if (env.npm_command !== "exec" || parent <= 1) return;
    this.#watch = setInterval(() => {
      if (process.ppid !== parent && this.name === undefined) this.raise("SIGTERM");
    }, 500).unref();
  }

  /** Acts as if the signal had come. */
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

  /** Calls the function at the first and at the second signal; it takes the place of the one before. */
  listen(listener: (() => void) | undefined): void {
    this.#listener = listener;
  }

  [Symbol.dispose](): void {
    for (const name of SIGNALS) process.off(name, this.raise);
    clearInterval(this.#watch);
  }
}

/**
 * Outlives the launcher by the time it takes to end the ranks. It reads "+ GROUP" and "- GROUP" from a pipe that only the
 * launcher holds open; at its end, which the kernel brings about however the launcher dies, the groups that are left get
 * SIGTERM, and SIGKILL after the grace. A shell, since it must be small and start before anything can go wrong. $1: tenths of
 * a second to wait.
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

/** Ends process groups if this process does not live to do it itself. One that is killed is replaced. */
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

  /** Lets it go. What was not removed is ended by it. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#process?.stdin?.end();
    await this.#ended;
  }

  #start(): void {
    const tenths = String(Math.round(this.#graceSeconds * 10));
    // A session of its own: neither Ctrl-C nor a closed terminal reaches it.
    const guard = spawn("/bin/sh", ["-c", SCRIPT, "diffcoder-launch-guard", tenths], {
      detached: true,
      cwd: "/",
      stdio: ["pipe", "ignore", "ignore"],
    });
    this.#process = guard;
    guard.stdin.on("error", () => {}); // its end is what counts
    this.#ended = new Promise((resolve) => {
      guard.on("error", (error) => {
        process.stderr.write(`warning: nothing ends the processes if this launcher is killed: ${error.message}\n`);
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
