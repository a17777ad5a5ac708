export type Key =
  | "quit"
  | "interrupt"
  | "suspend"
  | "smoothing"
  | "log"
  | "next"
  | "previous"
  | "next-run"
  | "previous-run";

const KEYS: Record<string, Key> = {
  q: "quit",
  Q: "quit",
  "\x03": "interrupt",
  "\x1a": "suspend",
  s: "smoothing",
  l: "log",
  "\x1b[C": "next",
  "\x1b[B": "next",
  "\x1bOC": "next",
  "\x1bOB": "next",
  "\x1b[D": "previous",
  "\x1b[A": "previous",
  "\x1bOD": "previous",
  "\x1bOA": "previous",
  "\t": "next-run",
  "\x1b[Z": "previous-run",
};

/** The keys that were typed; those without a meaning are left out. */
export function readKeys(data: string): Key[] {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that is how keys are sent
  const typed = data.match(/\x1b[[O][0-9;]*[A-Za-z~]|[\s\S]/g) ?? [];
  return typed.flatMap((text) => KEYS[text] ?? []);
}
