import { Live } from "./live.js";
import type { Run } from "./run.js";

/** Passes per second. */
export const SPEEDS = [2, 5, 10, 30, 100] as const;

/** Which pass is shown, of all runs at once: runs of different decoders are compared at equal numbers of passes. */
export class Player extends Live {
  runs: readonly Run[] = [];
  playing = false;
  speed: number = 10;
  /** undefined: the newest pass, also of a run that goes on. */
  #at: number | undefined;
  #fraction = 0;
  #last = 0;

  load(runs: readonly Run[]): void {
    this.runs = runs;
    this.#at = undefined;
    this.playing = false;
    this.changed();
  }

  /** Passes of the longest run. */
  get end(): number {
    return Math.max(0, ...this.runs.map((run) => run.recording.passes.length));
  }

  get at(): number {
    return Math.min(this.#at ?? this.end, this.end);
  }

  seek(pass: number): void {
    const live = this.runs.some((run) => !run.isOver);
    this.#at = live && pass >= this.end ? undefined : Math.max(0, Math.min(pass, this.end));
    this.changed();
  }

  /** By the arrow keys and buttons: playing stops. */
  step(by: number): void {
    this.playing = false;
    this.seek(this.at + by);
  }

  toggle(): void {
    this.playing = !this.playing && this.end > 0;
    if (this.playing) {
      if (this.at >= this.end) this.seek(0);
      this.#last = performance.now();
      this.#fraction = 0;
      requestAnimationFrame(this.#tick);
    }
    this.changed();
  }

  #tick = (now: number): void => {
    if (!this.playing) return;
    this.#fraction += (Math.max(0, now - this.#last) / 1000) * this.speed;
    this.#last = now;
    const whole = Math.floor(this.#fraction);
    this.#fraction -= whole;
    if (whole > 0) this.seek(this.at + whole);
    if (this.at >= this.end && this.runs.every((run) => run.isOver)) this.playing = false;
    else requestAnimationFrame(this.#tick);
    this.changed();
  };
}
