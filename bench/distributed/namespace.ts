import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";

/**
 * A network namespace of its own, with a loopback interface and nothing else: what processes in it send each other is
 * counted there, and nothing but that.
 */
export class NetworkNamespace {
  readonly #holder: ChildProcess;
  readonly #asUser: boolean;

  private constructor(holder: ChildProcess, asUser: boolean) {
    this.#holder = holder;
    this.#asUser = asUser;
  }

  /** Makes one, as root or by a user namespace; undefined where neither is allowed. */
  static async open(): Promise<NetworkNamespace | undefined> {
    for (const asUser of [false, true]) {
      // It ends with its input, and so with the process that opened it.
      const script = "ip link set lo up && echo ready && cat";
      const flags = asUser ? ["--map-root-user", "--net"] : ["--net"];
      const holder = spawn("unshare", [...flags, "sh", "-c", script], { stdio: ["pipe", "pipe", "ignore"] });
      const isReady = await new Promise<boolean>((settle) => {
        holder.on("error", () => settle(false));
        holder.on("close", () => settle(false));
        holder.stdout?.on("data", () => settle(true));
      });
      if (isReady) return new NetworkNamespace(holder, asUser);
    }
    return undefined;
  }

  /** A command line that runs the given one inside. */
  within(command: string, args: readonly string[]): { command: string; args: string[] } {
    const flags = [...(this.#asUser ? ["--user", "--preserve-credentials"] : []), "--net"];
    return { command: "nsenter", args: ["--target", String(this.#holder.pid), ...flags, command, ...args] };
  }

  /** Bytes that crossed the loopback interface so far, headers and acknowledgements included. */
  bytes(): number {
    const line = readFileSync(`/proc/${this.#holder.pid}/net/dev`, "utf8").match(/^\s*lo:(.*)$/m);
    if (!line) throw new Error("the namespace has no loopback interface");
    const TRANSMITTED = 8; // columns: eight of what was received, then bytes sent
    return Number(line[1].trim().split(/\s+/)[TRANSMITTED]);
  }

  close(): void {
    this.#holder.stdin?.end();
  }
}
