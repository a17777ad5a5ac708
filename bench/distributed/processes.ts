import { type ChildProcess, spawn } from "node:child_process";
import { createInterface, type Interface } from "node:readline";
import { cleanEnvironment } from "../shared/environment.js";
import type { NetworkNamespace } from "./namespace.js";

export type Answer = Record<string, unknown>;

export interface ProcessesOptions {
  command: string;
  args: readonly string[];
  /** How many. Default 1: a process that nobody launched. */
  size?: number;
  namespace?: NetworkNamespace;
}

/**
 * Processes of one job that stay alive between measurements. All get the same commands, as lines of JSON on their standard
 * input, and answer likewise.
 */
export class Processes {
  readonly namespace: NetworkNamespace | undefined;
  readonly #children: { child: ChildProcess; lines: Interface; answers: AsyncIterator<string> }[];
  #errors = "";

  constructor({ command, args, size = 1, namespace }: ProcessesOptions) {
    this.namespace = namespace;
    const line = namespace ? namespace.within(command, args) : { command, args };
    // Inside a namespace of its own any port is free; elsewhere a port of the processes' number hardly meets another's.
    const port = 20_000 + (process.pid % 10_000) + nextPort++;
    this.#children = Array.from({ length: size }, (_, rank) => {
      const launch = {
        RANK: rank,
        WORLD_SIZE: size,
        LOCAL_RANK: rank,
        LOCAL_WORLD_SIZE: size,
        MASTER_ADDR: "127.0.0.1",
        MASTER_PORT: port,
      };
      const child = spawn(line.command, line.args, {
        env: {
          ...cleanEnvironment(),
          GLOO_SOCKET_IFNAME: "lo",
          ...(size > 1 && Object.fromEntries(Object.entries(launch).map(([key, value]) => [key, String(value)]))),
        },
        stdio: "pipe",
      });
      child.on("error", (error) => (this.#errors += error.message));
      child.stdin.on("error", () => {}); // one that died says so by its output
      child.stderr.on("data", (data: Buffer) => (this.#errors = (this.#errors + data.toString()).slice(-4000)));
      const lines = createInterface({ input: child.stdout });
      return { child, lines, answers: lines[Symbol.asyncIterator]() };
    });
  }

  /** Everybody's answer, by rank. Throws what was printed when a process dies instead. */
  async ask(command: Record<string, unknown>): Promise<Answer[]> {
    for (const { child } of this.#children) child.stdin?.write(`${JSON.stringify(command)}\n`);
    return await Promise.all(
      this.#children.map(async ({ answers }) => {
        const { value, done } = await answers.next();
        if (done) throw new Error(`a process died:\n${this.#errors}`);
        return JSON.parse(value) as Answer;
      }),
    );
  }

  close(): void {
    for (const { child, lines } of this.#children) {
      lines.close();
      child.stdin?.end();
      child.kill();
    }
  }
}

let nextPort = 0;
