import { readFileSync } from "node:fs";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { Socket } from "node:net";

/** Milliseconds in which a client can read an answer that ends its connection, or that came before its whole request. */
const LINGER = 5000;
/** Connections beyond the limit that are still answered; more are not accepted. */
const REFUSALS = 64;
/** File descriptors that the process needs for other things than connections. */
const OTHER_FILES = 128;

interface Connection {
  /** What HTTP runs over: with TLS the encrypted stream, once it stands. */
  socket: Socket;
  /** performance.now() when it was made or its last response ended. */
  since: number;
  /** Requests whose responses are not over. */
  readonly open: Map<IncomingMessage, ServerResponse>;
}

export interface ConnectionLimits {
  maxConnections: number;
  /** Seconds without progress that a client may take to read what is ready for it; 0: for ever. */
  sendTimeout: number;
}

/**
 * The connections of a server, and how many there may be. A new one over the limit takes the place of the one that has
 * been idle for longest, or else of the one whose request has been arriving for longest. Those that are worked for stay.
 */
export class Connections {
  readonly limit: number;
  readonly #sendTimeout: number;
  readonly #connections = new Map<string, Connection>();
  readonly #refused = new WeakSet<Socket>();
  /** Connections that were closed for new ones, and that were refused. */
  readonly dropped = { evicted: 0, refused: 0, stalled: 0 };

  constructor({ maxConnections, sendTimeout }: ConnectionLimits) {
    this.limit = Math.min(maxConnections, Math.max(16, openFilesLimit() - OTHER_FILES));
    this.#sendTimeout = sendTimeout;
  }

  get count(): number {
    return this.#connections.size;
  }

  /** Watches over a server's connections from now on. */
  attach(server: Server): void {
    server.maxConnections = this.limit + REFUSALS;
    server.timeout = this.#sendTimeout * 1000;
    server.prependListener("connection", (socket) => this.#made(socket));
    server.on("secureConnection", (socket: Socket) => {
      const connection = this.#connections.get(keyOf(socket));
      if (connection) connection.socket = socket;
    });
    server.prependListener("request", (request, response) => this.#asked(request, response));
    server.on("timeout", (socket) => this.#silent(socket));
  }

  /** Ends a connection with these bytes, and leaves the client time to read them. */
  refuse(socket: Socket, answer: string): void {
    if (this.#refused.has(socket)) return; // what still comes is thrown away
    const responses = [...(this.#connections.get(keyOf(socket))?.open.values() ?? [])];
    const isAnswering = responses.some(({ headersSent }) => headersSent);
    if (socket.destroyed || !socket.writable || isAnswering) {
      socket.destroy();
      return;
    }
    this.#refused.add(socket);
    socket.end(answer);
    this.#cutLater(socket);
  }

  #made(socket: Socket): void {
    const key = keyOf(socket);
    if (this.#connections.size >= this.limit && !this.#evict()) {
      this.dropped.refused++;
      socket.destroy();
      return;
    }
    this.#connections.set(key, { socket, since: performance.now(), open: new Map() });
    socket.once("close", () => this.#connections.delete(key));
  }

  #asked(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request;
    const connection = this.#connections.get(keyOf(socket));
    connection?.open.set(request, response);
    // An answer may come before the whole request did. The rest is thrown away, for a while: a connection that is closed
    // with something unread takes the answer along.
    response.once("finish", () => {
      if (!request.complete) this.#cutLater(socket, () => !request.complete);
    });
    response.once("close", () => {
      if (!connection) return;
      connection.open.delete(request);
      connection.since = performance.now();
    });
  }

  /** Nothing came or went for a while. While the server works on an answer that is as it should be. */
  #silent(socket: Socket): void {
    const isWorkedFor = (this.#connections.get(keyOf(socket))?.open.size ?? 0) > 0;
    if (isWorkedFor && socket.writableLength === 0) return;
    if (isWorkedFor) this.dropped.stalled++;
    socket.destroy();
  }

  /** @returns whether there is room for one more now */
  #evict(): boolean {
    let victim: Connection | undefined;
    const rank = ({ open }: Connection): number => {
      if (open.size === 0) return 0;
      return [...open.keys()].every(({ complete }) => !complete) ? 1 : 2;
    };
    for (const each of this.#connections.values()) {
      if (rank(each) === 2) continue;
      if (!victim || rank(each) < rank(victim) || (rank(each) === rank(victim) && each.since < victim.since)) {
        victim = each;
      }
    }
    if (!victim) return false;
    this.dropped.evicted++;
    this.#connections.delete(keyOf(victim.socket));
    victim.socket.destroy();
    return true;
  }

  #cutLater(socket: Socket, isDue: () => boolean = () => true): void {
    const timer = setTimeout(() => {
      if (isDue()) socket.destroy();
    }, LINGER).unref();
    socket.once("close", () => clearTimeout(timer));
  }
}

/** The same for a socket and what TLS makes of it. */
function keyOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}

/** How many files this process may have open, where the system says so. */
function openFilesLimit(): number {
  try {
    const limit = /^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1];
    return limit === undefined ? Number.POSITIVE_INFINITY : Number(limit);
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}
