import { setTimeout as sleep } from "node:timers/promises";
import { DistributedError } from "./errors.js";
import type { Store } from "./store.js";

/** A store is asked for what is not there yet, first soon and then less and less often. */
const POLL_MILLISECONDS = { first: 10, last: 200 };
/** Whoever serves the store stays so long for others to read what all have told. */
const LINGER_SECONDS = 10;

/** One of several processes, and the store through which they exchange values. */
export interface ExchangePlace {
  readonly store: Store;
  readonly rank: number;
  readonly size: number;
  /** Seconds. */
  readonly timeout: number;
}

/**
 * Everybody's value, by rank, through the store: before there is a collective that processes could meet in, and without
 * one, for those of processes that differ may wait for each other for ever. For small JSON.
 *
 * @param topic the same on all, and new to this store
 * @param title what the message of a timeout begins with
 * @throws DistributedError DISTRIBUTED_TIMEOUT naming the ranks that did not come, DISTRIBUTED_PEER with the message of
 *   one that failed instead, see {@link explainFailure}
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
      throw new DistributedError("DISTRIBUTED_TIMEOUT", `${title}: ${who} did not come within ${timeout} s`);
    }
    await sleep(pause);
    pause = Math.min(1.5 * pause, POLL_MILLISECONDS.last);
  }
  const texts = await Promise.all(keys.map((key) => store.getText(key, timeout)));
  store.add(`exchange/${topic}/read`, 1);
  return texts.map((text) => JSON.parse(text) as T);
}

/** Waits until all have read what was exchanged: before a process leaves that may hold the store. Never throws. */
export async function lingerForReaders({ store, size }: ExchangePlace, topic: string): Promise<void> {
  const deadline = performance.now() + LINGER_SECONDS * 1000;
  try {
    while (store.add(`exchange/${topic}/read`, 0) < size && performance.now() < deadline) {
      await sleep(POLL_MILLISECONDS.first);
    }
  } catch {
    // Whoever holds the store has left: all is read.
  }
}

/** What one process tells of itself: values by the path of an option, as text. */
export type Fingerprint = Readonly<Record<string, string>>;

/**
 * Where processes differ that must be alike, one line for each path: "lr: rank 1: 0.001, rank 0: 0.002". Ranks with the
 * same value share it; those that differ from most come first.
 */
export function differences(all: readonly Fingerprint[]): string[] {
  const paths = new Set(all.flatMap((fingerprint) => Object.keys(fingerprint)));
  return [...paths].flatMap((path) => {
    const ranksOf = new Map<string, number[]>();
    for (const [rank, fingerprint] of all.entries()) {
      const value = fingerprint[path] ?? "not there";
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
 * Looks whether all processes are alike, before anything that would mix what they compute.
 *
 * @param topic as in {@link exchangeOverStore}
 * @param title what the processes are about to do
 * @throws DistributedError DISTRIBUTED_STATE on every rank, with all differences by rank, and as {@link exchangeOverStore}
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
