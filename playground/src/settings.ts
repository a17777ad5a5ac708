export type Task = "complete" | "infill" | "chat";
export type Decoder = "diffusion" | "autoregressive" | "both";
export type Rule = "static" | "threshold" | "hybrid" | "factor" | "entropy";

/** What the side panel holds. null: the server's own value. */
export interface Settings {
  task: Task;
  decoder: Decoder;
  together: boolean;
  blockSize: number | null;
  rule: Rule;
  steps: number | null;
  threshold: number;
  factor: number;
  bound: number;
  maxTokens: number;
  temperature: number;
  topP: number;
  topK: number;
  seed: number | null;
  /** One string a line; \n, \t and \\ are escapes. */
  stop: string;
  alternatives: number;
}

export interface Texts {
  prompt: string;
  prefix: string;
  suffix: string;
  system: string;
  message: string;
}

export const DEFAULTS: Readonly<Settings> = {
  task: "complete",
  decoder: "diffusion",
  together: false,
  blockSize: null,
  rule: "threshold",
  steps: null,
  threshold: 0.9,
  factor: 1,
  bound: 0.5,
  maxTokens: 96,
  temperature: 0,
  topP: 1,
  topK: 0,
  seed: null,
  stop: "",
  alternatives: 5,
};

export const NO_TEXTS: Readonly<Texts> = { prompt: "", prefix: "", suffix: "", system: "", message: "" };

export const TASKS: readonly Task[] = ["complete", "infill", "chat"];
export const DECODERS: readonly Decoder[] = ["diffusion", "autoregressive", "both"];
export const RULES: readonly Rule[] = ["static", "threshold", "hybrid", "factor", "entropy"];

/** Names of the settings whose type is T. */
type KeysOf<T> = { [K in keyof Settings]: Settings[K] extends T ? K : never }[keyof Settings];
export type NumberKey = KeysOf<number | null>;

export interface Range {
  min: number;
  max: number;
  integer: boolean;
  /** May be left empty. */
  optional?: boolean;
}

export const RANGES: Readonly<Record<NumberKey, Range>> = {
  blockSize: { min: 1, max: 1024, integer: true, optional: true },
  steps: { min: 1, max: 1024, integer: true, optional: true },
  threshold: { min: 0, max: 1, integer: false },
  factor: { min: 0.01, max: 1000, integer: false },
  bound: { min: 0, max: 1000, integer: false },
  maxTokens: { min: 1, max: 1_000_000, integer: true },
  temperature: { min: 0, max: 100, integer: false },
  topP: { min: 0.001, max: 1, integer: false },
  topK: { min: 0, max: 1_000_000, integer: true },
  seed: { min: 0, max: Number.MAX_SAFE_INTEGER, integer: true, optional: true },
  alternatives: { min: 0, max: 20, integer: true },
};

/** The number a text means, null for "left empty", undefined if it is not allowed. */
export function readNumber(text: string, range: Range): number | null | undefined {
  if (text.trim() === "") return range.optional ? null : undefined;
  const value = Number(text);
  const allowed = Number.isFinite(value) && value >= range.min && value <= range.max;
  return allowed && (!range.integer || Number.isInteger(value)) ? value : undefined;
}

/** Strings of the stop field. */
export function stopStrings(lines: string): string[] {
  const escapes: Record<string, string> = { n: "\n", t: "\t", "\\": "\\" };
  return lines
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => line.replace(/\\([nt\\])/g, (_, letter: string) => escapes[letter]));
}

/** The part of an address after "#": what differs from the defaults, and the texts. It never reaches a server. */
export function toHash(settings: Settings, texts: Texts): string {
  const entries: [string, string][] = [];
  for (const key of Object.keys(DEFAULTS) as (keyof Settings)[]) {
    if (settings[key] !== DEFAULTS[key]) entries.push([key, String(settings[key] ?? "")]);
  }
  for (const key of Object.keys(NO_TEXTS) as (keyof Texts)[]) if (texts[key]) entries.push([key, texts[key]]);
  return new URLSearchParams(entries).toString();
}

/** The opposite. What is missing, unknown or out of range is left at its default: anybody can write an address. */
export function fromHash(hash: string): { settings: Settings; texts: Texts } {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const settings: Settings = { ...DEFAULTS };
  const texts: Texts = { ...NO_TEXTS };
  const task = TASKS.find((each) => each === given.get("task"));
  const decoder = DECODERS.find((each) => each === given.get("decoder"));
  const rule = RULES.find((each) => each === given.get("rule"));
  if (task) settings.task = task;
  if (decoder) settings.decoder = decoder;
  if (rule) settings.rule = rule;
  settings.together = given.get("together") === "true";
  settings.stop = given.get("stop") ?? DEFAULTS.stop;
  for (const key of Object.keys(RANGES) as NumberKey[]) {
    const value = readNumber(given.get(key) ?? " ", RANGES[key]);
    if (given.has(key) && value !== undefined) Object.assign(settings, { [key]: value });
  }
  for (const key of Object.keys(NO_TEXTS) as (keyof Texts)[]) texts[key] = given.get(key) ?? "";
  return { settings, texts };
}
