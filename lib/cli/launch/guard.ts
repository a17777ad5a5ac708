import { type ChildProcess, spawn } from "node:child_process";

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
