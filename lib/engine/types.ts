/** A token at the moment it was committed. */
export interface CommittedToken {
  /** From the prompt's first token, which is at 0 (for infilling: of the rendered prompt). */
  position: number;
  id: number;
  /** The token's own text; a piece of a character is U+FFFD here. Texts of events join correctly. */
  text: string;
  /** ln of the probability the model gave it in the pass that committed it, untempered, over all tokens but the mask. */
  logprob: number;
  /** The most likely tokens of that pass, if requested (`logprobs` > 0), most likely first. */
  topLogprobs?: TopLogprob[];
  /** Denoising pass within the block, from 0; and the number of the block, from 0. AR: step 0, block = nth token. */
  step: number;
  block: number;
}

export interface TopLogprob {
  id: number;
  text: string;
  logprob: number;
}

/** The request was taken from the queue and one of its choices began. */
export interface StartEvent {
  type: "start";
  /** Number of the choice, 0 .. n - 1. */
  index: number;
  promptTokens: number;
  /** Prompt tokens whose keys and values were already there. */
  cachedTokens: number;
}

/** One denoising pass of one block; in AR decoding one token. */
export interface DenoiseEvent {
  type: "denoise";
  index: number;
  block: number;
  step: number;
  /** The block's first position and the one after its last; the first block may begin with the prompt's remainder. */
  start: number;
  end: number;
  masksLeft: number;
  committed: CommittedToken[];
  /** Positions that were committed before and are masked again (option `remask`). */
  remasked?: number[];
}

/** Text that is final, in order. What belongs to a stop string never appears. */
export interface TextEvent {
  type: "text";
  index: number;
  text: string;
  /** The tokens that became final. Their text may come with a later event, when it may still be part of a stop string. */
  ids: number[];
  tokens: CommittedToken[];
}

export interface Usage {
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
  /** Passes of the model this choice took part in, prefill included. */
  forwards: number;
  denoisingSteps: number;
}

/** Seconds since the request was given to the engine. */
export interface Timings {
  /** Until it left the queue. */
  queue: number;
  /** Until its first block (AR: token) was complete. */
  firstBlock: number;
  total: number;
}

/** Always a choice's last event. After "error" the iterator throws the error itself. */
export interface DoneEvent {
  type: "done";
  index: number;
  finishReason: "stop" | "length" | "abort" | "error";
  /** The stop string or the stop token that ended it. */
  stopReason?: string | number;
  usage: Usage;
  timings: Timings;
}

export type EngineEvent = StartEvent | DenoiseEvent | TextEvent | DoneEvent;

/** A choice as a whole: what {@link EngineEvent}s add up to. */
export interface Choice {
  index: number;
  text: string;
  ids: number[];
  tokens: CommittedToken[];
  finishReason: DoneEvent["finishReason"];
  stopReason?: string | number;
  usage: Usage;
  timings: Timings;
}

export interface ScoreResult {
  mode: "autoregressive" | "diffusion";
  /**
   * null for the first token. Autoregressive: ln p of each token given those before. Diffusion: what each adds to the
   * bound of Eq. 4, the mean of its ln p over the orders in which its block can be unmasked.
   */
  logprobs: (number | null)[];
  /** The most likely tokens at each position, if requested; in mode "diffusion" by the same means. */
  topLogprobs?: (TopLogprob[] | null)[];
  /** Negative log-likelihood in nats, the negative sum of the logprobs; in mode "diffusion" its upper bound. */
  nll: number;
  /** Tokens scored: all but the first. */
  tokens: number;
  /** Of `nll`, from the bound's random masks; 0 where nothing is random. */
  standardError: number;
  /** Masks that the bound was computed over, one forward pass each; 1 in mode "autoregressive". */
  mcSamples: number;
}

/** What decides whether a request is taken, and when another try is worthwhile. */
export interface AdmissionStats {
  /** Choices that have not begun, reserved ones included: what counts against `maxQueue`. */
  waiting: number;
  /** Their prompt tokens: what counts against `maxQueueTokens`. */
  waitingTokens: number;
  /** Tokens that the requests that are not over may still generate. */
  outstandingTokens: number;
  /** Tokens generated in the best whole second of the last minute; 0 where there were none. */
  tokensPerSecond: number;
  /** Seconds after which a refused request should find room: 1 to 30. */
  retryAfter: number;
}

/** What the engine is doing and has done. Counters only grow, but start at 0 when the worker is started again. */
export interface EngineStats {
  state: "starting" | "ready" | "draining" | "dead" | "closed";
  /** Why the engine does not work at present: its worker died and is being restarted, or hangs. */
  trouble?: string;
  /** Choices that decode, and that wait for a place. */
  running: number;
  waiting: number;
  /** Prompt tokens of choices that have not begun. */
  waitingTokens: number;
  admission: AdmissionStats;
  /** Share of the KV cache's pages that running sequences hold, 0 .. 1. */
  cacheUsage: number;
  pages: { total: number; used: number; cached: number; free: number; pageSize: number };
  counters: {
    requests: number;
    /** Of these, texts that were scored. */
    scores: number;
    finished: { stop: number; length: number; abort: number; error: number };
    /** Requests that were refused because a limit was reached, by limit. */
    rejected: { requests: number; tokens: number };
    promptTokens: number;
    completionTokens: number;
    /** Prompt tokens looked up in, and found by the prefix cache. */
    prefixCacheQueries: number;
    prefixCacheHits: number;
    preemptions: number;
    /** Passes of the model over a batch, and the rows of tokens in them. */
    forwards: number;
    forwardTokens: number;
    /** One pass of one block each; AR tokens are not counted. */
    denoisingSteps: number;
    /** Tokens that denoising passes committed: per denoisingSteps the parallelism reached. */
    committedTokens: number;
    remaskedTokens: number;
    blocks: number;
    /** Shapes of passes recorded as CUDA graphs, and passes that replayed one. */
    graphCaptures: number;
    graphReplays: number;
    workerRestarts: number;
  };
  /**
   * All seconds since the worker was started: in the model's passes, in everything around them (scheduling, events, messages,
   * waiting for a processor), and with nothing to generate.
   */
  seconds: { model: number; other: number; idle: number };
  /** Live tensors and their bytes in the engine's thread. */
  memory: { tensors: number; bytes: number };
}

/** Information about the loaded model. */
export interface ModelInfo {
  /** The folder, or "in-memory". */
  name: string;
  vocabSize: number;
  parameters: number;
  /** Tokens of prompt and output: what the model was made for, and what this engine allows. */
  contextLength: number;
  maxLength: number;
  maskId: number | null;
  eosIds: number[];
  hasTokenizer: boolean;
  hasFim: boolean;
  hasChatTemplate: boolean;
  dtype: string;
  device: string;
  quantization: "int8" | null;
  blockSize: number;
}

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
