import type * as z from "zod";
import type { ConfigLimit } from "./architectures/architecture.js";
import { brief, type ConfigJson } from "./architectures/architecture.js";
import { ARCHITECTURES, type Architecture, architectureOfType, architectureSpec } from "./architectures/index.js";
import { type DecoderConfig, type DecoderConfigInput, decoderConfigSchema, type RopeConfig } from "./config.js";
import { ModelConfigError } from "./errors.js";

export type { ConfigJson } from "./architectures/architecture.js";

// Keys that correspond one to one. null in config.json counts as absent, as in transformers.
const KEYS = {
  vocabSize: "vocab_size",
  hiddenSize: "hidden_size",
  intermediateSize: "intermediate_size",
  numLayers: "num_hidden_layers",
  numHeads: "num_attention_heads",
  numKeyValueHeads: "num_key_value_heads",
  headDim: "head_dim",
  maxPositionEmbeddings: "max_position_embeddings",
  rmsNormEps: "rms_norm_eps",
  tieWordEmbeddings: "tie_word_embeddings",
  initializerRange: "initializer_range",
  bosTokenId: "bos_token_id",
  eosTokenId: "eos_token_id",
  padTokenId: "pad_token_id",
  maskTokenId: "mask_token_id",
} as const satisfies Partial<Record<keyof DecoderConfig, string>>;

const ROPE_KEYS = {
  theta: "rope_theta",
  type: "rope_type",
  factor: "factor",
  lowFreqFactor: "low_freq_factor",
  highFreqFactor: "high_freq_factor",
  originalMaxPositionEmbeddings: "original_max_position_embeddings",
} as const;

// Written from the config, or meaningless once it changes.
const OWN_KEYS = new Set<string>([
  ...Object.values(KEYS),
  ...["architectures", "model_type", "hidden_act", "attention_bias", "mlp_bias", "layer_types"],
  ...["rope_theta", "rope_scaling", "rope_parameters", "original_max_position_embeddings"],
  ...["dtype", "torch_dtype", "transformers_version"],
]);

/** Limits of config.json for all architectures. */
const LIMITS: readonly ConfigLimit[] = [
  { key: "hidden_act", allowed: "'silu'", accepts: (value) => value === "silu" || value === "swish" },
  { key: "mlp_bias", allowed: "false", accepts: (value) => value === false },
  { key: "use_sliding_window", allowed: "false", accepts: (value) => value === false },
  {
    key: "layer_types",
    allowed: "only 'full_attention'",
    accepts: (value) => Array.isArray(value) && value.every((type) => type === "full_attention"),
  },
  { key: "partial_rotary_factor", allowed: "1", accepts: (value) => value === 1 },
  {
    key: "quantization_config",
    allowed: "none, because quantized checkpoints are not supported",
    accepts: () => false,
  },
];

/**
 * Reads the content of a Hugging Face config.json. Both forms of the rotary fields are supported: `rope_parameters`
 * (transformers 5) and `rope_theta` with `rope_scaling` (4 and before). Other keys, including the dropout rates, are
 * kept for {@link toConfigJson} and otherwise ignored.
 *
 * @param path path of the file, for errors
 * @throws ModelConfigError listing every invalid or unsupported key with its allowed values
 */
export function parseConfigJson(json: unknown, path = "config.json"): DecoderConfig {
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw new ModelConfigError(`${path}: expected a JSON object`);
  }
  const problems: string[] = [];
  const architecture = architectureOf(json as ConfigJson, problems);
  const spec = architectureSpec(architecture);
  const source: ConfigJson = { ...spec.configDefaults, ...json };
  for (const { key, allowed, accepts } of [...LIMITS, ...spec.configLimits]) {
    const value = source[key];
    if (value === undefined || value === null || accepts(value, source)) continue;
    const what = `${key} is ${key in json ? brief(value) : `missing, which means ${brief(value)}`}`;
    problems.push(`${what}, allowed: ${typeof allowed === "string" ? allowed : allowed(source)}`);
  }
  const rope = ropeOf(source, problems);
  const config: Record<string, unknown> = { architecture, rope, dtype: dtypeOf(source, problems) };
  for (const [own, key] of Object.entries(KEYS)) config[own] = source[key] ?? undefined;
  // Ids outside the vocabulary, often -1, mean none: transformers loads such files, and no model generates such an id.
  for (const key of ["bosTokenId", "padTokenId"] as const) config[key] = idInVocabulary(config[key], source.vocab_size);
  config.eosTokenId = endTokens(config.eosTokenId, source.vocab_size);
  if (config.maskTokenId === -1) config.maskTokenId = undefined;
  config.maskTokenId ??= spec.maskTokenId;
  config.attentionBias = spec.readAttentionBias(source, problems);
  const others = Object.entries(json).filter(([key]) => !OWN_KEYS.has(key) && !spec.ownKeys.includes(key));
  const kept = spec.keptKeys.filter((key) => source[key] !== undefined).map((key) => [key, source[key]]);
  config.other = Object.fromEntries([...others, ...kept]);

  const parsed = decoderConfigSchema.safeParse(config as DecoderConfigInput);
  if (!parsed.success) problems.push(...parsed.error.issues.map((issue) => describe(issue, source)));
  if (problems.length > 0 || !parsed.success) {
    throw new ModelConfigError(`${path} cannot be used\n${problems.map((problem) => `  ${problem}`).join("\n")}`);
  }
  return parsed.data;
}

/**
 * The content of config.json for a config, in the form that transformers 4 and 5, vLLM and others read
 * (`rope_theta`, `rope_scaling`, `torch_dtype`).
 */
export function toConfigJson(config: DecoderConfig): ConfigJson {
  const spec = architectureSpec(config.architecture);
  const json: ConfigJson = { ...config.other };
  json.architectures = [config.architecture];
  json.model_type ??= spec.modelType;
  json.hidden_act = "silu";
  for (const [own, key] of Object.entries(KEYS)) json[key] = config[own as keyof typeof KEYS];
  Object.assign(json, spec.writeConfig(config));
  if (config.maskTokenId === null) delete json.mask_token_id;
  const { theta, type, ...scaling } = config.rope;
  json.rope_theta = theta;
  json.rope_scaling = type === "default" ? null : { rope_type: type, ...snakeRope(scaling) };
  if (config.dtype) json.torch_dtype = config.dtype;
  return json;
}

/**
 * Reads the end tokens from generation_config.json.
 *
 * @param path path of the file, for errors
 * @throws ModelConfigError for a value that is neither an id nor a list of ids nor null
 */
export function parseEndTokens(json: unknown, path: string, vocabSize: number): DecoderConfig["eosTokenId"] {
  const value = (json as ConfigJson | null)?.eos_token_id ?? null;
  const ids = endTokens(value, vocabSize);
  if (ids === null || [ids].flat().every((id) => Number.isSafeInteger(id))) return ids as DecoderConfig["eosTokenId"];
  throw new ModelConfigError(`${path}: eos_token_id is ${brief(value)}, expected an id, a list of ids, or null`);
}

/** Removes ids outside the vocabulary from an id or a list of ids; other values are unchanged. */
function endTokens(value: unknown, vocabSize: unknown): unknown {
  if (!Array.isArray(value)) return idInVocabulary(value, vocabSize) ?? null;
  const ids = [...new Set(value)].map((id) => idInVocabulary(id, vocabSize)).filter((id) => id !== undefined);
  return ids.length > 0 ? ids : null;
}

/** The value, or undefined for an integer outside the vocabulary. */
function idInVocabulary(value: unknown, vocabSize: unknown): unknown {
  const isOutside = Number.isInteger(value) && ((value as number) < 0 || (value as number) >= Number(vocabSize));
  return isOutside ? undefined : value;
}

function snakeRope(scaling: Record<string, unknown>): ConfigJson {
  const entries = Object.entries(scaling).map(([key, value]) => [ROPE_KEYS[key as keyof typeof ROPE_KEYS], value]);
  return Object.fromEntries(entries);
}

function architectureOf(source: ConfigJson, problems: string[]): Architecture {
  const named = Array.isArray(source.architectures) ? source.architectures[0] : source.architectures;
  const found = named ?? architectureOfType(source.model_type);
  if ((ARCHITECTURES as readonly unknown[]).includes(found)) return found as Architecture;
  const what = found === undefined ? "architectures is missing" : `architectures is ${brief(found)}`;
  problems.push(`${what}, allowed: ${ARCHITECTURES.map((name) => `'${name}'`).join(", ")}`);
  return "LlamaForCausalLM";
}

function ropeOf(source: ConfigJson, problems: string[]): RopeConfig | undefined {
  const form = source.rope_parameters != null ? "rope_parameters" : "rope_scaling";
  const given = source[form] ?? {};
  if (typeof given !== "object" || Array.isArray(given)) {
    problems.push(`${form} is ${brief(given)}, expected an object`);
    return undefined;
  }
  const parameters = given as ConfigJson;
  const type = parameters.rope_type ?? parameters.type ?? "default";
  if (type !== "default" && type !== "linear" && type !== "llama3") {
    problems.push(`${form}.rope_type is ${brief(type)}, allowed: 'default', 'linear', 'llama3'`);
    return undefined;
  }
  if (parameters.partial_rotary_factor !== undefined && parameters.partial_rotary_factor !== 1) {
    problems.push(`${form}.partial_rotary_factor is ${brief(parameters.partial_rotary_factor)}, allowed: 1`);
  }
  const perLayer = Object.keys(parameters).filter((key) => key.endsWith("_attention"));
  if (perLayer.length > 0) problems.push(`${form}.${perLayer[0]}: rotary parameters per layer type are not supported`);
  const rope: Record<string, unknown> = { type };
  const value = (key: string) => parameters[key] ?? source[key] ?? undefined;
  rope.theta = value("rope_theta");
  if (type !== "default") rope.factor = parameters.factor;
  if (type === "llama3") {
    rope.lowFreqFactor = parameters.low_freq_factor;
    rope.highFreqFactor = parameters.high_freq_factor;
    rope.originalMaxPositionEmbeddings = value("original_max_position_embeddings") ?? source.max_position_embeddings;
  }
  return rope as RopeConfig; // validated with the whole config
}

function dtypeOf(source: ConfigJson, problems: string[]): DecoderConfig["dtype"] {
  const value = source.dtype ?? source.torch_dtype;
  if (value === undefined || value === null) return undefined;
  const name = String(value).replace("torch.", "");
  if (name === "float32" || name === "float16" || name === "bfloat16" || name === "float64") return name;
  problems.push(
    `${source.dtype != null ? "dtype" : "torch_dtype"} is ${brief(value)}, allowed: float32, float16, bfloat16, float64`,
  );
  return undefined;
}

// Converts the keys of issues to the keys of the user's file.
function describe(issue: z.core.$ZodIssue, source: ConfigJson): string {
  const [first, second] = issue.path.map(String);
  let key: string = KEYS[first as keyof typeof KEYS] ?? first ?? "";
  if (first === "rope") {
    const form = source.rope_parameters != null ? "rope_parameters" : "rope_scaling";
    const name = ROPE_KEYS[second as keyof typeof ROPE_KEYS] ?? second;
    key = name === "rope_theta" && form === "rope_scaling" ? "rope_theta" : `${form}.${name}`;
  } else if (first === "attentionBias") {
    key = "attention_bias";
  }
  return `${key}: ${issue.message}`;
}
