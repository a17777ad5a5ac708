import { parseArgs } from "node:util";
import { PRESET_NAMES, type PresetName } from "stable-diffcoder/model";
import { benchOptions } from "../shared/harness.js";

/** What `npm run bench -- serve` consists of: the files of bench/serve/parts. */
export const PARTS = ["batch1", "saturation", "http"] as const;
export type PartName = (typeof PARTS)[number];

export const WEIGHTS = ["float32", "bfloat16", "int8"] as const;
export type Weights = (typeof WEIGHTS)[number];

export interface ServeBenchOptions {
  parts: PartName[];
  presets: PresetName[];
  /** A trained checkpoint in place of the presets. */
  model?: string;
  threads: number;
  rounds?: number;
  quick: boolean;
  device: string;
  /** Of the engine and the server in "saturation" and "http". */
  weights: Weights;
  blockSize: number;
  threshold?: number;
  /** How "saturation" and "http" commit: two tokens a pass by the schedule, or by the threshold. */
  commit: "static" | "threshold";
}

/**
 * The options of this benchmark. Names of parts come first; without one all are run.
 *
 * @throws Error that says what is allowed
 */
export function serveBenchOptions(args: readonly string[], env: NodeJS.ProcessEnv = process.env): ServeBenchOptions {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      json: { type: "string" },
      rounds: { type: "string" },
      threads: { type: "string" },
      quick: { type: "boolean" },
      device: { type: "string", default: "cpu" },
      preset: { type: "string", multiple: true },
      model: { type: "string" },
      weights: { type: "string", default: "float32" },
      "block-size": { type: "string", default: "4" },
      threshold: { type: "string" },
      commit: { type: "string", default: "static" },
    },
  });
  const { quick, rounds, threads } = benchOptions(args);
  const presets = (values.preset ?? (quick ? ["tiny"] : ["tiny", "125m"])).flatMap((each) => each.split(","));
  const weights = oneOf("--weights", WEIGHTS, values.weights);
  if (weights === "int8" && values.device !== "cpu") throw new Error("--weights int8 is for the CPU");
  if (values.model !== undefined && values.preset) throw new Error("--model and --preset exclude each other");
  const wanted = threads ?? Number(env.OMP_NUM_THREADS || 2);
  const blockSize = Number(values["block-size"]);
  if (!Number.isInteger(blockSize) || blockSize < 2) throw new Error("--block-size takes a whole number above 1");
  const threshold = values.threshold === undefined ? undefined : Number(values.threshold);
  if (threshold !== undefined && !(threshold >= 0 && threshold <= 1)) throw new Error("--threshold takes 0 to 1");
  return {
    parts: positionals.length > 0 ? positionals.map((name) => oneOf("a part", PARTS, name)) : [...PARTS],
    presets: presets.map((name) => oneOf("--preset", PRESET_NAMES, name)),
    ...(values.model !== undefined && { model: values.model }),
    threads: Number.isInteger(wanted) && wanted > 0 ? wanted : 2,
    ...(rounds !== undefined && { rounds }),
    quick,
    device: values.device,
    weights,
    blockSize,
    ...(threshold !== undefined && { threshold }),
    commit: oneOf("--commit", ["static", "threshold"] as const, values.commit),
  };
}

function oneOf<T extends string>(what: string, allowed: readonly T[], value: string): T {
  const found = allowed.find((each) => each === value);
  if (found === undefined) throw new Error(`${what} is one of ${allowed.join(", ")}, not "${value}"`);
  return found;
}
