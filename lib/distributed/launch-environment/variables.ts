import { DistributedError } from "../errors.js";

/** What a launcher says of this process: who it is among how many, and where they meet. */
export interface LaunchEnvironment {
  /** Number of this process among all, from 0. */
  rank: number;
  /** How many processes there are. */
  worldSize: number;
  /** Number of this process on its machine, from 0: which device it takes. */
  localRank: number;
  /** How many processes this machine runs. */
  localWorldSize: number;
  /** Host of rank 0, and the port of the store there through which all processes meet. */
  masterAddr: string;
  masterPort: number;
  /** How often the launcher has started this job again, and how often it may. */
  restartCount: number;
  maxRestarts: number;
  launcher: "torchrun" | "slurm" | "kubernetes" | "diffcoder" | "env";
  /** The launcher holds the store itself: rank 0 must not open one there. */
  storeIsHosted: boolean;
}

/** What each launcher says in its own way. */
export type LaunchInfo = Omit<LaunchEnvironment, "restartCount" | "maxRestarts" | "storeIsHosted"> & {
  restarts?: number;
};

/** Variables, read strictly. It remembers which were asked for, to name them. */
export class Variables {
  readonly #env: NodeJS.ProcessEnv;
  readonly #asked = new Set<string>();

  constructor(env: NodeJS.ProcessEnv) {
    this.#env = env;
  }

  text(name: string): string | undefined {
    const value = this.#env[name];
    if (value === undefined || value === "") return undefined;
    return value;
  }

  has(name: string): boolean {
    return this.text(name) !== undefined;
  }

  /** "RANK=3" */
  shown(name: string): string {
    return `${name}=${this.text(name) ?? ""}`;
  }

  /** The numbers that were read. */
  asked(): string[] {
    return [...this.#asked].map((name) => this.shown(name));
  }

  contradiction(one: string, other: string): DistributedError {
    return wrongEnvironment(`${this.shown(one)} contradicts ${this.shown(other)}`);
  }

  /** @param because the variable that makes this one necessary */
  integer(name: string, { fallback, because }: { fallback?: number; because?: string } = {}): number {
    const text = this.text(name);
    if (text === undefined && fallback !== undefined) return fallback;
    const value = this.#needed(name, because);
    if (!/^\d{1,15}$/.test(value)) throw wrongEnvironment(`${this.shown(name)} is not an integer from 0`);
    this.#asked.add(name);
    return Number(value);
  }

  port(name: string, { because }: { because?: string } = {}): number {
    const value = this.#needed(name, because);
    const port = /^\d{1,5}$/.test(value) ? Number(value) : 0;
    if (port < 1 || port > 65535) throw wrongEnvironment(`${this.shown(name)} is not a port from 1 to 65535`);
    return port;
  }

  host(name: string, { because }: { because?: string } = {}): string {
    const value = this.#needed(name, because);
    // Addresses and scheme://... are what people write here by mistake; IPv6 has several colons.
    if (!/^[\w.:%-]+$/.test(value) || /^[^:]*:[^:]*$/.test(value)) {
      throw wrongEnvironment(`${this.shown(name)} is not a host: expected a name or an IP address, without a port`);
    }
    return value;
  }

  #needed(name: string, because?: string): string {
    const value = this.text(name);
    if (value !== undefined) return value;
    throw wrongEnvironment(
      because === undefined ? `${name} is not set` : `${this.shown(because)}, but ${name} is not set`,
    );
  }
}

export function wrongEnvironment(message: string): DistributedError {
  return new DistributedError("DISTRIBUTED_ENVIRONMENT", `what the launcher set is wrong: ${message}`);
}
