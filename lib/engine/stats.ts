import type { EngineStats } from "./types.js";

/** What the core counts; the engine around it adds its state and its admission. */
export type CoreStats = Omit<EngineStats, "state" | "trouble" | "waiting" | "waitingTokens" | "admission">;

/** Counters of an engine that has done nothing. */
export function zeroCounters(): EngineStats["counters"] {
  return {
    requests: 0,
    scores: 0,
    finished: { stop: 0, length: 0, abort: 0, error: 0 },
    rejected: { requests: 0, tokens: 0 },
    promptTokens: 0,
    completionTokens: 0,
    prefixCacheQueries: 0,
    prefixCacheHits: 0,
    preemptions: 0,
    forwards: 0,
    forwardTokens: 0,
    denoisingSteps: 0,
    committedTokens: 0,
    remaskedTokens: 0,
    blocks: 0,
    graphCaptures: 0,
    graphReplays: 0,
    workerRestarts: 0,
  };
}

/** The stats of a core that has not said any yet. */
export function zeroStats(): CoreStats {
  return {
    running: 0,
    cacheUsage: 0,
    pages: { total: 0, used: 0, cached: 0, free: 0, pageSize: 0 },
    counters: zeroCounters(),
    seconds: { model: 0, other: 0, idle: 0 },
    memory: { tensors: 0, bytes: 0 },
  };
}
