import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const command = fileURLToPath(new URL("../../bin/diffcoder.mjs", import.meta.url));

/** Values of /metrics by name, summed over labels. */
export type Metrics = Map<string, number>;

/** The samples of a page in Prometheus' text format. */
export function parseMetrics(page: string): Metrics {
  const metrics: Metrics = new Map();
  for (const line of page.split("\n")) {
    const [, name, value] = /^([\w:]+)(?:\{.*\})? (\S+)$/.exec(line) ?? [];
    if (name !== undefined) metrics.set(name, (metrics.get(name) ?? 0) + Number(value));
  }
  return metrics;
}

/** `diffcoder serve` as users start it: compiled, its engine in a process of its own. */
export class ServerProcess {
  readonly url: string;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, url: string) {
    this.#child = child;
    this.url = url;
  }

  /** Waits until it serves. @throws Error with what it printed */
  static async start(model: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<ServerProcess> {
    const child = spawn(
      process.execPath,
      [command, "serve", model, "--port", "0", "--no-page", "--log-level", "error", ...args],
      { env: { ...process.env, NO_COLOR: "1", FORCE_COLOR: undefined, ...env }, stdio: ["ignore", "pipe", "pipe"] },
    );
    let printed = "";
    for (const stream of [child.stdout, child.stderr]) stream?.on("data", (data) => (printed += data));
    const began = performance.now();
    while (!/^access /m.test(printed)) {
      if (child.exitCode !== null || performance.now() - began > 120_000) {
        child.kill("SIGKILL");
        throw new Error(`diffcoder serve did not start:\n${printed}`);
      }
      await sleep(20);
    }
    return new ServerProcess(child, /(http:\S+?)\/v1/.exec(printed)?.[1] ?? "");
  }

  async metrics(): Promise<Metrics> {
    return parseMetrics(await (await fetch(`${this.url}/metrics`)).text());
  }

  /** Seconds of processor time that the HTTP process, not the engine's, has used; undefined where nobody says. */
  cpuSeconds(): number | undefined {
    try {
      const fields = readFileSync(`/proc/${this.#child.pid}/stat`, "utf8")
        .replace(/^.*\) /, "")
        .split(" ");
      return (Number(fields[11]) + Number(fields[12])) / 100; // user and system time, in ticks of 10 ms
    } catch {
      return undefined;
    }
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.kill("SIGTERM");
    const late = setTimeout(() => this.#child.kill("SIGKILL"), 10_000);
    await once(this.#child, "exit");
    clearTimeout(late);
  }
}
