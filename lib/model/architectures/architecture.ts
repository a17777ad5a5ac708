/** Biases that attention may have: on no projection, on those of q, k and v, or on these and the output's. */
export const ATTENTION_BIASES = ["none", "qkv", "qkvo"] as const;
export type AttentionBias = (typeof ATTENTION_BIASES)[number];

/** A value of config.json that is refused rather than ignored, because the decoder does not compute what it asks for. */
export interface ConfigLimit {
  key: string;
  /** What the message says is allowed, and what to do. */
  allowed: string | ((source: ConfigJson) => string);
  /** Is not asked about a value that is missing or null. */
  accepts(value: unknown, source: ConfigJson): boolean;
}

/**
 * How tensor parallelism lays a module of a layer over its ranks:
 *
 * - `sharedInput`: all ranks hold the input alike and each computes a part; the input's gradient is summed over them
 * - `heads`, `keyValueHeads`: a matrix whose outputs are cut by whole heads; where there are fewer key/value heads than
 *   ranks, several ranks hold the same one
 * - `headInputs`: a matrix whose inputs are cut by whole heads; its outputs are summed over the ranks
 * - `features`, `featureInputs`: the same by single features
 * - `partialGradient`: a norm that all ranks hold whole, though each applies it to its own heads only; its gradient is the
 *   sum of the ranks'
 */
export type LayerCut =
  | "sharedInput"
  | "heads"
  | "keyValueHeads"
  | "headInputs"
  | "features"
  | "featureInputs"
  | "partialGradient";

/**
 * What one architecture is, by the side of Llama's decoder: how its config.json reads, which layers differ, how they are
 * cut, which of their matrices may be replaced. Each is a file of this folder, and a line of the table in index.ts.
 */
export interface ArchitectureSpec {
  /** `model_type` of config.json. */
  readonly modelType: string;
  /** Biases that its attention may have; the first is the default. */
  readonly attentionBiases: readonly [AttentionBias, ...AttentionBias[]];
  /** Whether attention norms q and k, each head by itself, before it turns them by their positions. */
  readonly qkNorm: boolean;

  /** What transformers takes for keys that config.json lacks. A key that is null is not lacking. */
  readonly configDefaults: ConfigJson;
  /** What its config.json may not ask for, besides what no architecture's may. */
  readonly configLimits: readonly ConfigLimit[];
  /** Keys of config.json that {@link writeConfig} decides, and that therefore are not kept in `other`. */
  readonly ownKeys: readonly string[];
  /** Keys that are kept in `other`, though for all other architectures they follow from the config. */
  readonly keptKeys: readonly string[];
  /** The mask token where config.json names none. */
  readonly maskTokenId?: number;
  /** Reads which biases config.json asks for. What is wrong is added to `problems`. */
  readAttentionBias(source: ConfigJson, problems: string[]): AttentionBias;
  /** The keys of config.json that other architectures have not, or not so. */
  writeConfig(config: { readonly attentionBias: AttentionBias }): ConfigJson;

  /** How tensor parallelism lays out a layer, by paths within the layer. What is not named is whole on all ranks. */
  readonly layerCuts: Readonly<Record<string, LayerCut>>;
  /** Paths within a layer of the matrices that may be quantised or adapted. */
  readonly layerMatrices: readonly string[];
}

/** An object parsed from config.json. */
export type ConfigJson = Record<string, unknown>;

/** A value as it is shown in a message, at most 60 characters of JSON. */
export function brief(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** A flag of config.json, false where it is missing; anything else but true and false is a problem. */
export function booleanOf(source: ConfigJson, key: string, problems: string[]): boolean {
  const value = source[key] ?? false;
  if (typeof value !== "boolean") problems.push(`${key} is ${brief(value)}, allowed: true, false`);
  return value === true;
}
