import { DistributedError } from "../errors.js";

/** The launcher's description of this process: its rank, the world size, and the address of the store. */
export interface LaunchEnvironment {
  /** Rank of this process among all, from 0. */
  rank: number;
  /** Number of processes. */
  worldSize: number;
  /** Rank of this process on its machine, from 0; the index of its device. */
  localRank: number;
  /** Number of processes on this machine. */
  localWorldSize: number;
  /** Host of rank 0, and the port of the rendezvous store on it. */
  masterAddr: string;
  masterPort: number;
  /** How often the launcher has restarted this job, and the maximum. */
  restartCount: number;
  maxRestarts: number;
  launcher: "torchrun" | "slurm" | "kubernetes" | "diffcoder" | "env";
  /** Whether the launcher serves the store: rank 0 then must not open one. */
  storeIsHosted: boolean;
}

/** The part of the environment that differs between launchers. */
export type LaunchInfo = Omit<LaunchEnvironment, "restartCount" | "maxRestarts" | "storeIsHosted"> & {
  restarts?: number;
};

/** Environment variables with strict parsing. Records the variables that were read, for error messages. */
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

  /** The variables that were read as numbers, as "NAME=VALUE". */
  asked(): string[] {
    return [...this.#asked].map((name) => this.shown(name));
  }

  contradiction(one: string, other: string): DistributedError {
    return wrongEnvironment(`${this.shown(one)} contradicts ${this.shown(other)}`);
  }

  /** @param because the variable that requires this one */
  integer(name: string, { fallback, because }: { fallback?: number; because?: string } = {}): number {
    const text = this.text(name);
    if (text === undefined && fallback !== undefined) return fallback;
    const value = this.#needed(name, because);
    if (!/^\d{1,15}$/.test(value)) throw wrongEnvironment(`${this.shown(name)} is not a non-negative integer`);
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
    // Common mistakes are HOST:PORT and scheme://...; an IPv6 address has several colons.
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
  return new DistributedError("DISTRIBUTED_ENVIRONMENT", `invalid launcher environment: ${message}`);
}
