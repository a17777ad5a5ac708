/** Biases of attention: on no projection, on those of q, k and v, or on these and the output projection. */
export const ATTENTION_BIASES = ["none", "qkv", "qkvo"] as const;
export type AttentionBias = (typeof ATTENTION_BIASES)[number];

/**
 * A limit on a value of config.json. Other values are rejected, not ignored, because the decoder does not support them.
 */
export interface ConfigLimit {
  key: string;
  /** Description of the allowed values, and of what to do, for the message. */
  allowed: string | ((source: ConfigJson) => string);
  /** Not called for a value that is missing or null. */
  accepts(value: unknown, source: ConfigJson): boolean;
}

/**
 * How tensor parallelism splits a module of a layer:
 *
 * - `sharedInput`: the input is replicated and each rank computes a part; the input's gradient is summed over ranks
 * - `heads`, `keyValueHeads`: a matrix whose outputs are split by whole heads; if there are fewer key/value heads than
 *   ranks, several ranks hold the same one
 * - `headInputs`: a matrix whose inputs are split by whole heads; its outputs are summed over ranks
 * - `features`, `featureInputs`: the same, split by single features
 * - `partialGradient`: a replicated norm that each rank applies to its own heads only; its gradient is summed over
 *   ranks
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
 * Specification of one architecture, as differences from Llama's decoder: the mapping of its config.json, its layers,
 * how tensor parallelism splits them, and which of their matrices may be replaced. Each architecture is one file of
 * this folder and one line of the table in index.ts.
 */
export interface ArchitectureSpec {
  /** `model_type` of config.json. */
  readonly modelType: string;
  /** Supported biases of its attention; the first is the default. */
  readonly attentionBiases: readonly [AttentionBias, ...AttentionBias[]];
  /** Whether attention normalizes q and k, per head, before the rotary embedding. */
  readonly qkNorm: boolean;

  /** Defaults of transformers for keys that are missing from config.json. A null key is not missing. */
  readonly configDefaults: ConfigJson;
  /** Limits of its config.json, in addition to those of all architectures. */
  readonly configLimits: readonly ConfigLimit[];
  /** Keys of config.json that {@link writeConfig} writes, so that they are not kept in `other`. */
  readonly ownKeys: readonly string[];
  /** Keys that are kept in `other`, although all other architectures derive them from the config. */
  readonly keptKeys: readonly string[];
  /** Default mask token, if config.json has none. */
  readonly maskTokenId?: number;
  /** Reads the attention biases from config.json. Invalid values are added to `problems`. */
  readAttentionBias(source: ConfigJson, problems: string[]): AttentionBias;
  /** The keys of config.json that are specific to this architecture. */
  writeConfig(config: { readonly attentionBias: AttentionBias }): ConfigJson;

  /** How tensor parallelism splits a layer, by paths within the layer. Other modules are replicated. */
  readonly layerCuts: Readonly<Record<string, LayerCut>>;
  /** Paths, within a layer, of the matrices that may be quantized or adapted. */
  readonly layerMatrices: readonly string[];
}

/** An object parsed from config.json. */
export type ConfigJson = Record<string, unknown>;

/** Formats a value for a message, as at most 60 characters of JSON. */
export function brief(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** Reads a flag of config.json, false if it is missing; adds a problem if it is not a boolean. */
export function booleanOf(source: ConfigJson, key: string, problems: string[]): boolean {
  const value = source[key] ?? false;
  if (typeof value !== "boolean") problems.push(`${key} is ${brief(value)}, allowed: true, false`);
  return value === true;
}
