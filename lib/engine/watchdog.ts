/** Milliseconds between two checks. */
const INTERVAL = 500;
/** Milliseconds without a beat after which the core counts as silent; one comes every half second. */
const SILENT = 3000;
/** Seconds that a process may take to its first heartbeat. */
const FIRST_BEAT = 60;

export interface WatchLimits {
  /** Seconds without a beat; 0: any number. */
  hangTimeout: number;
  /** Seconds in which the core's event loop does not turn, as in one pass of the model; 0: any number. */
  passTimeout: number;
}

/**
 * Detects that a core hangs, by heartbeats of a thread in its process that does nothing else. They stop when the process is
 * stopped or starved. Each carries the number of turns of the core's event loop, which stands still during a pass. A pass
 * may be long; a healthy process is never silent.
 */
export class Watchdog {
  readonly #limits: WatchLimits;
  readonly #onHang: (reason: string) => void;
  readonly #timer: NodeJS.Timeout;
  readonly #now: () => number;
  #lookedAt: number;
  #beatAt: number;
  #turnedAt: number;
  #turns = -1;
  #isReady = false;
  #isOver = false;

  /**
   * @param onHang called once, with what is wrong
   * @param now milliseconds, monotonic
   */
  constructor(limits: WatchLimits, onHang: (reason: string) => void, now = () => performance.now()) {
    this.#limits = limits;
    this.#onHang = onHang;
    this.#now = now;
    this.#lookedAt = this.#beatAt = this.#turnedAt = now();
    this.#timer = setInterval(() => this.look(), INTERVAL).unref();
  }

  /** A heartbeat. @param turns of the core's event loop, modulo any number */
  beat(turns: number): void {
    this.#beatAt = this.#now();
    if (turns !== this.#turns) this.#turnedAt = this.#beatAt;
    this.#turns = turns;
  }

  /**
   * The model is loaded, which may take any time: from now on, passTimeout applies. It is a sign of life as a heartbeat is: a
   * small model may be loaded before the first one.
   */
  ready(): void {
    this.#isReady = true;
    this.#beatAt = this.#turnedAt = this.#now();
    this.#turns = Math.max(this.#turns, 0);
  }

  /** Seconds without a heartbeat, once that is longer than usual; else 0. */
  get silence(): number {
    const silent = this.#now() - this.#beatAt;
    return this.#turns >= 0 && !this.#isOver && silent > SILENT ? silent / 1000 : 0;
  }

  /** Checks the limits; called by a timer. */
  look(): void {
    const now = this.#now();
    const late = now - this.#lookedAt - INTERVAL;
    this.#lookedAt = now;
    if (late > INTERVAL) {
      // This process stood still: heartbeats of the core are yet to be read.
      this.#beatAt += late;
      this.#turnedAt += late;
      return;
    }
    const { hangTimeout, passTimeout } = this.#limits;
    const silence = (now - this.#beatAt) / 1000;
    const pass = (now - this.#turnedAt) / 1000;
    const allowed = this.#turns < 0 ? Math.max(hangTimeout, FIRST_BEAT) : hangTimeout;
    if (hangTimeout > 0 && silence > allowed) this.#end(`it gave no sign of life for ${Math.round(silence)} s`);
    else if (this.#isReady && passTimeout > 0 && pass > passTimeout) {
      this.#end(`it did not come out of a pass of the model for ${Math.round(pass)} s`);
    }
  }

  stop(): void {
    this.#isOver = true;
    clearInterval(this.#timer);
  }

  #end(reason: string): void {
    if (this.#isOver) return;
    this.stop();
    this.#onHang(reason);
  }
}
