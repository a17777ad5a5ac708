import { setTimeout as sleep } from "node:timers/promises";
import { DistributedError } from "./errors.js";
import type { Store } from "./store.js";

/** Polling interval for missing keys, which grows from `first` to `last`. */
const POLL_MILLISECONDS = { first: 10, last: 200 };
/** Seconds that the process with the store waits for others to read the last values. */
const LINGER_SECONDS = 10;

/** This process among several, and the store through which they exchange values. */
export interface ExchangePlace {
  readonly store: Store;
  readonly rank: number;
  readonly size: number;
  /** Timeout in seconds. */
  readonly timeout: number;
}

/**
 * Gathers a small JSON value from every process, by rank, through the store. It works before any collective exists, and
 * between processes that differ, whose collectives could deadlock.
 *
 * @param topic the same on all processes, and not used before in this store
 * @param title start of the message of a timeout
 * @throws DistributedError DISTRIBUTED_TIMEOUT naming the ranks that did not arrive, DISTRIBUTED_PEER with the message
 *   of a rank that failed, see {@link explainFailure}
 */
export async function exchangeOverStore<T>(
  { store, rank, size, timeout }: ExchangePlace,
  topic: string,
  title: string,
  value: T,
): Promise<T[]> {
  const ranks = Array.from({ length: size }, (_, i) => i);
  const keyOf = (i: number) => `exchange/${topic}/${i}`;
  store.set(keyOf(rank), JSON.stringify(value) ?? "null");
  const keys = ranks.map(keyOf);
  const deadline = performance.now() + timeout * 1000;
  let pause = POLL_MILLISECONDS.first;
  while (!store.check(keys)) {
    if (store.check(["failed"])) {
      const failed = await store.getText("failed", 1);
      const message = `${title}: rank ${failed} failed: ${await store.getText(`failed/${failed}`, 1)}`;
      throw new DistributedError("DISTRIBUTED_PEER", message);
    }
    if (performance.now() >= deadline) {
      const missing = ranks.filter((i) => !store.check([keyOf(i)]));
      const who = `${missing.length === 1 ? "rank" : "ranks"} ${missing.join(", ")} of ${size}`;
      throw new DistributedError("DISTRIBUTED_TIMEOUT", `${title}: ${who} did not arrive within ${timeout} s`);
    }
    await sleep(pause);
    pause = Math.min(1.5 * pause, POLL_MILLISECONDS.last);
  }
  const texts = await Promise.all(keys.map((key) => store.getText(key, timeout)));
  store.add(`exchange/${topic}/read`, 1);
  return texts.map((text) => JSON.parse(text) as T);
}

/**
 * Waits until all processes have read the exchanged values, before a process that may hold the store exits. Never
 * throws.
 */
export async function lingerForReaders({ store, size }: ExchangePlace, topic: string): Promise<void> {
  const deadline = performance.now() + LINGER_SECONDS * 1000;
  try {
    while (store.add(`exchange/${topic}/read`, 0) < size && performance.now() < deadline) {
      await sleep(POLL_MILLISECONDS.first);
    }
  } catch {
    // The process with the store has exited, so all values were read.
  }
}

/** Description of one process: values as text, by option path. */
export type Fingerprint = Readonly<Record<string, string>>;

/**
 * The differences between processes, one line per path: "lr: rank 1: 0.001, rank 0: 0.002". Ranks with the same value
 * are grouped; the smallest groups come first.
 */
export function differences(all: readonly Fingerprint[]): string[] {
  const paths = new Set(all.flatMap((fingerprint) => Object.keys(fingerprint)));
  return [...paths].flatMap((path) => {
    const ranksOf = new Map<string, number[]>();
    for (const [rank, fingerprint] of all.entries()) {
      const value = fingerprint[path] ?? "absent";
      ranksOf.set(value, [...(ranksOf.get(value) ?? []), rank]);
    }
    if (ranksOf.size === 1) return [];
    const groups = [...ranksOf].sort(([, a], [, b]) => a.length - b.length || b[0] - a[0]);
    const parts = groups.map(([value, ranks]) => `${ranks.length === 1 ? "rank" : "ranks"} ${someOf(ranks)}: ${value}`);
    return [`${path}: ${parts.join(", ")}`];
  });
}

function someOf(ranks: readonly number[]): string {
  return ranks.length <= 8 ? ranks.join(", ") : `${ranks.slice(0, 8).join(", ")} and ${ranks.length - 8} more`;
}

const MOST_DIFFERENCES = 30;

/**
 * Checks that all processes have equal fingerprints, before anything that combines their results.
 *
 * @param topic as in {@link exchangeOverStore}
 * @param title name of the step that the processes are about to take
 * @throws DistributedError DISTRIBUTED_STATE on every rank, with all differences by rank, and as {@link
 *   exchangeOverStore}
 */
export async function requireAlike(
  place: ExchangePlace,
  topic: string,
  title: string,
  fingerprint: Fingerprint,
): Promise<void> {
  const lines = differences(await exchangeOverStore(place, topic, title, fingerprint));
  if (lines.length === 0) return;
  await lingerForReaders(place, topic);
  const shown = lines.slice(0, MOST_DIFFERENCES).map((line) => `  ${line}`);
  if (lines.length > shown.length) shown.push(`  and ${lines.length - shown.length} more`);
  const remedy = "Start the same program with the same options and files on all of them.";
  throw new DistributedError("DISTRIBUTED_STATE", `${title}: the processes differ\n${shown.join("\n")}\n${remedy}`);
}
