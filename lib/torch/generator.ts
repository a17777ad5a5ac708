import { shown } from "./describe.js";
import { guard } from "./errors.js";
import { native } from "./native.js";
import { checkOptions } from "./options.js";
import { type Tensor, wrap } from "./tensor.js";

const collected = new FinalizationRegistry<number>((handle) => native.freeGenerator(handle));

const uncloneable = Symbol("a Generator cannot be sent to another thread: send getState().toTypedArray() instead:");

/** An independent stream of random numbers: torch.Generator. Random operators take it as `{ generator }`. */
export class Generator implements Disposable {
  /** Makes structuredClone and postMessage throw. */
  readonly uncloneable: unknown = uncloneable;
  handle: number;
  readonly device: string;

  /**
   * @param options.seed non-negative, below 2^53, or a bigint below 2^64
   * @param options.device default "cpu"
   */
  constructor(options: { seed: number | bigint; device?: string }) {
    options = checkOptions("Generator", options, ["seed", "device"]);
    this.device = options.device ?? "cpu";
    this.handle = guard("Generator", () => native.createGenerator(this.device, options.seed));
    collected.register(this, this.handle, this);
  }

  manualSeed(seed: number | bigint): this {
    guard("Generator.manualSeed", () => native.seedGenerator(this.handle, seed));
    return this;
  }

  /** The state of the stream, as a uint8 tensor: torch.Generator.get_state. */
  getState(): Tensor {
    return guard("Generator.getState", () => wrap(native.generatorState(this.handle)));
  }

  /** Restores a state from {@link getState}: torch.Generator.set_state. */
  setState(state: Tensor): this {
    guard("Generator.setState", () => native.setGeneratorState(this.handle, state.handle));
    return this;
  }

  [shown](): string {
    return "Generator";
  }

  dispose(): void {
    collected.unregister(this);
    native.freeGenerator(this.handle);
    this.handle = 0;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Seeds the default generators of the CPU and of every CUDA device: torch.manual_seed. */
export function manualSeed(seed: number | bigint): void {
  guard("manualSeed", () => native.manualSeed(seed));
}
