import type { Decoder } from "../model/decoder.js";
import { messageOf } from "../torch/errors.js";
import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import { deviceIndex, type PagedKVCache, type PassInputs } from "./paged-kv-cache.js";
import { bucketed, type IntegerLists, type PassPart, stage, unpack } from "./pass/pass.js";

/** Larger passes keep the device busy without graphs, and their memory would never be freed. */
const MOST_TOKENS = 1024;
/** Maximum number of shapes; the least recently used one is dropped. */
const MOST_SHAPES = 64;
/** Passes of a shape before it is recorded: recording does not pay for a shape that occurs once. */
const WARM_UPS = 2;

/** What records a pass: {@link torch.CUDAGraph} on CUDA. */
export interface Recording {
  warmUp(run: () => void): void;
  capture(run: () => void): void;
  replay(): void;
  dispose(): void;
}

/** Makes recordings. All share memory. */
export type Recorder = () => Recording;

/** CUDA's. */
export function cudaRecorder(device: string): Recorder {
  const pool = torch.cuda.graphPoolHandle();
  return () => new torch.cuda.CUDAGraph({ device: deviceIndex(device), pool });
}

interface Shape {
  recording: Recording;
  /** int32: the integers of the pass, where the recording reads them. */
  inputs: Tensor;
  warmUps: number;
  recorded: boolean;
}

/**
 * Decoding passes as CUDA graphs. Few tokens take longer to launch than to compute, so passes are padded to few shapes,
 * read their integers from fixed memory and are recorded once per shape. All recordings share memory for what they
 * compute on the way, since one runs at a time, and leave their result in the same place.
 */
export class PassGraphs {
  readonly counters = { captures: 0, replays: 0 };
  readonly #model: Decoder;
  readonly #memory: PagedKVCache;
  readonly #recorder: Recorder;
  readonly #shapes = new Map<string, Shape>();
  readonly #failed = new Set<string>();
  /** [MOST_TOKENS, hiddenSize] */
  readonly #output: Tensor;

  constructor(model: Decoder, memory: PagedKVCache, recorder: Recorder) {
    this.#model = model;
    this.#memory = memory;
    this.#recorder = recorder;
    const { dtype, device } = model.embedTokens.weight;
    this.#output = torch.keep(torch.zeros([MOST_TOKENS, model.config.hiddenSize], { dtype, device }));
  }

  /**
   * @param parts all of decoding sequences: the shapes of such passes recur
   * @returns as {@link PagedKVCache.forward}; undefined where the pass must be run there
   */
  forward(parts: readonly PassPart[]): Tensor | undefined {
    const inputs = this.#memory.describe(parts, bucketed);
    const { tokens, wanted } = inputs;
    if (tokens > MOST_TOKENS || wanted === 0) return undefined;
    const { rows: wantedRows, ...others } = inputs.lists;
    // First, and as many as tokens, so that the number of output rows is not part of the shape.
    const rows = new Int32Array(tokens);
    rows.set(wantedRows);
    const lists = { rows, ...others };
    const key = shapeKey(inputs, lists);
    if (this.#failed.has(key)) return undefined;
    const shape = this.#shapeOf(key, lists);
    shape.inputs.copy_(stage(lists, this.#model.device), true);
    const run = () => this.#pass(shape.inputs, inputs, lists);
    if (shape.warmUps < WARM_UPS) {
      shape.warmUps++;
      shape.recording.warmUp(run);
    } else {
      if (!shape.recorded && !this.#capture(key, shape, run)) return undefined;
      shape.recording.replay();
      this.counters.replays++;
    }
    return this.#output.indexSelect(0, shape.inputs.narrow(0, 0, wanted));
  }

  dispose(): void {
    for (const [key, shape] of this.#shapes) this.#drop(key, shape);
    this.#output.dispose();
  }

  /** The work that is recorded. It reads no integers from the host, and leaves no tensor but the result in its place. */
  #pass(packed: Tensor, inputs: PassInputs, lists: IntegerLists): void {
    torch.scope(() => {
      const hidden = this.#memory.run(this.#model, inputs, unpack(packed, lists));
      this.#output.narrow(0, 0, inputs.tokens).copy_(hidden.squeeze(0));
    });
  }

  #capture(key: string, shape: Shape, run: () => void): boolean {
    try {
      shape.recording.capture(run);
    } catch (error) {
      process.emitWarning(
        `a pass of this shape runs without a CUDA graph, as it cannot be recorded: ${messageOf(error)}`,
        {
          code: "DIFFCODER_CUDA_GRAPH",
          detail: key,
        },
      );
      this.#failed.add(key);
      this.#drop(key, shape);
      return false;
    }
    shape.recorded = true;
    this.counters.captures++;
    return true;
  }

  #shapeOf(key: string, lists: IntegerLists): Shape {
    let shape = this.#shapes.get(key);
    if (shape) this.#shapes.delete(key);
    else {
      const length = Object.values(lists).reduce((sum, list) => sum + list.length, 0);
      const { device } = this.#model;
      shape = {
        recording: this.#recorder(),
        inputs: torch.keep(torch.zeros([length], { dtype: "int32", device })),
        warmUps: 0,
        recorded: false,
      };
    }
    this.#shapes.set(key, shape);
    if (this.#shapes.size > MOST_SHAPES) this.#drop(...(this.#shapes.entries().next().value as [string, Shape]));
    return shape;
  }

  #drop(key: string, { recording, inputs }: Shape): void {
    this.#shapes.delete(key);
    recording.dispose();
    inputs.dispose();
  }
}

/** Everything that the operators of a pass depend on except the values. */
function shapeKey({ sizes }: PassInputs, lists: IntegerLists): string {
  const lengths = Object.entries(lists).map(([name, { length }]) => `${name}[${length}]`);
  return [...lengths, ...Object.entries(sizes).map(([name, size]) => `${name}=${size}`)].join(" ");
}
