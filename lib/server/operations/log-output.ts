import { closeSync, constants, fstatSync, openSync, writeSync } from "node:fs";

/** Where the server writes its log: lines of JSON. */
export interface LogDestination {
  write(line: string): void;
}

/** Bytes of lines that wait for a reader; what comes then is dropped. */
const MAX_WAITING = 2 ** 20;
/** Milliseconds between two tries to write to what was full. */
const RETRY = 50;

/** Where bytes go, without waiting: how many were taken (0: none now), or it throws what is wrong with the place. */
type Sink = (bytes: Buffer) => number;

/**
 * Lines to standard output (or another descriptor) that never wait for a reader: what a full pipe, a full disk
 * or a closed terminal does not take is kept up to a limit, then dropped and counted. A write that blocks would stop the
 * server, and its end.
 */
export class LogOutput implements LogDestination {
  readonly #maxWaiting: number;
  readonly #write: Sink;
  readonly #close: () => void;
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #timer: NodeJS.Timeout | undefined;
  #dropped = 0;
  /** Dropped lines that the log has not reported yet. */
  #unreported = 0;

  /**
   * @param fd a descriptor of this process, or a place to write
   * @param options.maxWaiting bytes that may wait
   */
  constructor(fd: number | Sink, { maxWaiting = MAX_WAITING }: { maxWaiting?: number } = {}) {
    this.#maxWaiting = maxWaiting;
    if (typeof fd === "function") {
      this.#write = fd;
      this.#close = () => {};
    } else {
      const sink = openSink(fd);
      this.#write = sink.write;
      this.#close = sink.close;
    }
  }

  /** Lines that were lost. */
  get dropped(): number {
    return this.#dropped;
  }

  write(line: string): void {
    if (this.#waiting.length > 0) this.#drain();
    if (this.#unreported > 0 && this.#waiting.length === 0) this.#report();
    const bytes = Buffer.from(line, "utf8");
    if (this.#waitingBytes + bytes.length > this.#maxWaiting) {
      this.#drop(1);
      return;
    }
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
    if (this.#waiting.length === 1) this.#drain();
  }

  /** Writes what can be written at once; the rest is lost. */
  close(): void {
    this.#drain();
    clearTimeout(this.#timer);
    this.#close();
  }

  #drain(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    try {
      while (this.#waiting.length > 0) {
        const [first] = this.#waiting;
        const written = this.#write(first);
        this.#waitingBytes -= written;
        if (written < first.length) {
          if (written > 0) this.#waiting[0] = first.subarray(written);
          break;
        }
        this.#waiting.shift();
      }
    } catch {
      // Nobody reads any more, or the disk is full. It may be otherwise for what comes later.
      this.#drop(this.#waiting.length);
      this.#waiting = [];
      this.#waitingBytes = 0;
    }
    if (this.#waiting.length > 0) this.#timer = setTimeout(() => this.#drain(), RETRY).unref();
  }

  #drop(lines: number): void {
    this.#dropped += lines;
    this.#unreported += lines;
  }

  #report(): void {
    const time = new Date().toISOString();
    const message = `${this.#unreported} lines of the log were lost: its buffer was full because nothing read it`;
    this.#unreported = 0;
    const bytes = Buffer.from(`${JSON.stringify({ level: "warn", time, message })}\n`);
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
    this.#drain();
  }
}

function openSink(fd: number): { write: Sink; close: () => void } {
  const kind = fstatSync(fd);
  if (kind.isSocket()) return { write: streamSink(fd === 2 ? process.stderr : process.stdout), close: () => {} };
  let own = fd;
  if (kind.isFIFO() || kind.isCharacterDevice()) {
    try {
      // Of our own, so that only we do not wait: the flag belongs to all who share an open file.
      own = openSync(`/dev/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
    } catch {
      return { write: streamSink(fd === 2 ? process.stderr : process.stdout), close: () => {} };
    }
  }
  const write = (bytes: Buffer) => {
    try {
      return writeSync(own, bytes);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EAGAIN") return 0;
      throw error;
    }
  };
  return { write, close: () => own !== fd && closeSync(own) };
}

/** Node writes to sockets without waiting; it would keep whatever is not read. */
function streamSink(stream: NodeJS.WriteStream): Sink {
  let failure: Error | undefined;
  stream.on("error", (error) => {
    failure = error;
  });
  return (bytes) => {
    if (failure) throw failure;
    if (stream.writableLength > 0) return 0;
    stream.write(bytes);
    return bytes.length;
  };
}
