import type { StableDiffCoder } from "../../lib/checkpoint/index.js";
import { type CoreInternals, EngineCore } from "../../lib/engine/core.js";
import type { EngineOptions, GenerateOptions } from "../../lib/engine/index.js";
import { engineOptionsSchema, generateOptionsSchema } from "../../lib/engine/options.js";
import type { Recorder } from "../../lib/engine/pass-graphs.js";
import type { EngineStats } from "../../lib/engine/types.js";

export interface Job {
  prompt: number[];
  options: GenerateOptions;
}

/** Runs requests in one batch, on a core whose passes run in a way that no option chooses. */
export async function runCore(
  coder: StableDiffCoder,
  jobs: readonly Job[],
  internals: CoreInternals = {},
  options: EngineOptions = {},
): Promise<{ ids: number[][]; counters: EngineStats["counters"] }> {
  const ids: number[][] = jobs.map(() => []);
  let left = jobs.length;
  const settings = engineOptionsSchema.parse(options);
  let core!: EngineCore;
  await new Promise<void>((done, fail) => {
    core = new EngineCore(
      coder,
      settings,
      (reports) => {
        for (const { key, events, error, last } of reports) {
          if (error) fail(error);
          for (const event of events) if (event.type === "text") ids[key].push(...event.ids);
          if (last && --left === 0) done();
        }
      },
      internals,
    );
    for (const [key, { prompt, options: given }] of jobs.entries()) {
      const parsed = generateOptionsSchema.parse(given);
      core.generate({
        key,
        prompt: Int32Array.from(prompt),
        settings: { ...parsed, seed: parsed.seed ?? 0, blockSize: parsed.blockSize ?? settings.blockSize },
        stopTokenIds: [],
        stopTokens: [],
        forbidden: [],
        arrival: Date.now(),
      });
    }
  });
  const { counters } = core.stats();
  await core.close();
  return { ids, counters };
}

/** "Records" passes by keeping the code, which every replay runs again: the very same work without a graph. */
export class Reruns {
  live = 0;
  made = 0;

  readonly recorder: Recorder = () => {
    let work = () => {};
    this.live++;
    this.made++;
    return {
      warmUp: (run) => run(),
      capture: (run) => {
        work = run;
      },
      replay: () => work(),
      dispose: () => void this.live--,
    };
  };
}
