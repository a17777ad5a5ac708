import fc from "fast-check";

/**
 * Requests as OpenAI's OpenAPI document describes them (github.com/openai/openai-openapi, August 2026:
 * CreateChatCompletionRequest and CreateCompletionRequest with all they refer to): every field, with its limits.
 */

type Fields = Record<string, unknown>;
type Arbitraries = Record<string, fc.Arbitrary<unknown>>;

const some = (...values: unknown[]): fc.Arbitrary<unknown> => fc.constantFrom(...values);
const nullable = (arbitrary: fc.Arbitrary<unknown>) => fc.oneof({ weight: 5, arbitrary }, fc.constant(null));
const words = fc.oneof(fc.string({ maxLength: 12 }), fc.string({ unit: "binary", maxLength: 8 }), some("x = 1\n", ""));
const name = fc.stringMatching(/^[a-z_]{1,10}$/);
const free = fc.dictionary(fc.string({ maxLength: 4 }), fc.jsonValue({ maxDepth: 2 }), { maxKeys: 3 });
const real = (min: number, max: number) => fc.oneof(fc.double({ min, max, noNaN: true }), some(min, max));

/** A signed integer of 64 bits: as a bigint where JSON.stringify could not write it. See {@link jsonText}. */
const seed = fc.oneof(
  fc.integer(),
  fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  fc.constantFrom<number | bigint>(0, -1, 2n ** 63n - 1n, -(2n ** 63n), 2n ** 53n + 1n),
);

const textPart = fc.record(
  { type: fc.constant("text"), text: words, prompt_cache_breakpoint: fc.constant({ mode: "explicit" }) },
  { requiredKeys: ["type", "text"] },
);
const refusalPart = fc.record({ type: fc.constant("refusal"), refusal: words });
const mediaPart = some(
  { type: "image_url", image_url: { url: "https://example.com/a.png", detail: "low" } },
  { type: "input_audio", input_audio: { data: "AAAA", format: "wav" } },
  { type: "file", file: { file_id: "f" } },
);
const parts = (part: fc.Arbitrary<unknown>) => fc.array(part, { minLength: 1, maxLength: 3 });
const text = fc.oneof({ weight: 3, arbitrary: words }, parts(textPart));
const toolCalls = fc.array(
  fc.oneof(
    fc.record({ id: name, type: fc.constant("function"), function: fc.record({ name, arguments: words }) }),
    fc.record({ id: name, type: fc.constant("custom"), custom: fc.record({ name, input: words }) }),
  ),
  { maxLength: 2 },
);

const message = fc.oneof(
  {
    weight: 2,
    arbitrary: fc.record(
      { role: some("system", "developer"), content: text, name },
      { requiredKeys: ["role", "content"] },
    ),
  },
  {
    weight: 6,
    arbitrary: fc.record(
      { role: fc.constant("user"), content: fc.oneof({ weight: 9, arbitrary: text }, parts(mediaPart)), name },
      { requiredKeys: ["role", "content"] },
    ),
  },
  {
    weight: 3,
    arbitrary: fc.record(
      {
        role: fc.constant("assistant"),
        content: nullable(fc.oneof(text, parts(fc.oneof(textPart, refusalPart)))),
        refusal: nullable(words),
        name,
        audio: fc.oneof({ weight: 9, arbitrary: fc.constant(null) }, fc.constant({ id: "a" })),
        tool_calls: toolCalls,
        function_call: nullable(fc.record({ name, arguments: words })),
      },
      { requiredKeys: ["role"] },
    ),
  },
  fc.record({ role: fc.constant("tool"), content: text, tool_call_id: name }),
  fc.record({ role: fc.constant("function"), content: nullable(words), name }),
);

const functionTool = fc.record({
  type: fc.constant("function"),
  function: fc.record(
    { name, description: words, parameters: free, strict: nullable(fc.boolean()) },
    {
      requiredKeys: ["name"],
    },
  ),
});

const common: Arbitraries = {
  frequency_penalty: nullable(real(-2, 2)),
  presence_penalty: nullable(real(-2, 2)),
  logit_bias: nullable(
    fc.oneof(
      fc.dictionary(fc.nat({ max: 4095 }).map(String), fc.integer({ min: -100, max: 100 }), { maxKeys: 4 }),
      fc.dictionary(fc.string({ maxLength: 4 }), fc.integer(), { maxKeys: 2 }),
    ),
  ),
  n: nullable(fc.oneof({ weight: 9, arbitrary: fc.integer({ min: 1, max: 3 }) }, some(128))),
  seed: nullable(seed),
  stop: nullable(fc.oneof(words, fc.array(words, { minLength: 1, maxLength: 4 }))),
  stream: nullable(fc.boolean()),
  stream_options: nullable(
    fc.record({ include_usage: fc.boolean(), include_obfuscation: fc.boolean() }, { requiredKeys: [] }),
  ),
  temperature: nullable(real(0, 2)),
  top_p: nullable(real(0, 1)),
  user: fc.string({ maxLength: 2000 }),
};

const chatFields: Arbitraries = {
  ...common,
  max_tokens: nullable(fc.oneof({ weight: 9, arbitrary: fc.integer({ min: 1, max: 6 }) }, fc.integer())),
  max_completion_tokens: nullable(fc.oneof({ weight: 9, arbitrary: fc.integer({ min: 1, max: 6 }) }, fc.integer())),
  metadata: nullable(fc.dictionary(fc.string({ maxLength: 6 }), fc.string({ maxLength: 6 }), { maxKeys: 3 })),
  safety_identifier: nullable(fc.string({ maxLength: 64 })),
  prompt_cache_key: nullable(fc.string()),
  prompt_cache_retention: some("in_memory", "24h", null),
  prompt_cache_options: fc.record({ ttl: some("30m"), mode: some("implicit", "explicit") }, { requiredKeys: [] }),
  service_tier: some("auto", "default", "flex", "scale", "priority", "fast", null),
  store: nullable(fc.boolean()),
  verbosity: some("low", "medium", "high", null),
  reasoning_effort: some("none", "minimal", "low", "medium", "high", "xhigh", "max", null),
  modalities: nullable(fc.uniqueArray(some("text", "audio"), { maxLength: 2 })),
  audio: nullable(some({ voice: "alloy", format: "wav" }, { voice: { id: "v" }, format: "pcm16" })),
  moderation: nullable(some({ model: "m" }, { model: "m", policy: { input: { mode: "block" }, output: null } })),
  web_search_options: some({}, { search_context_size: "low" }, { user_location: null }),
  prediction: nullable(fc.record({ type: fc.constant("content"), content: text })),
  response_format: fc.oneof(
    fc.constant({ type: "text" }),
    fc.constant({ type: "json_object" }),
    fc.record({ type: fc.constant("json_schema"), json_schema: fc.record({ name, schema: free }) }),
  ),
  logprobs: nullable(fc.boolean()),
  top_logprobs: nullable(fc.integer({ min: 0, max: 20 })),
  tools: fc.array(fc.oneof(functionTool, fc.constant({ type: "custom", custom: { name: "c" } })), { maxLength: 2 }),
  tool_choice: some(
    ...["none", "auto", "required"],
    { type: "function", function: { name: "f" } },
    { type: "custom", custom: { name: "c" } },
    { type: "allowed_tools", allowed_tools: { mode: "auto", tools: [] } },
  ),
  parallel_tool_calls: fc.boolean(),
  function_call: some("none", "auto", { name: "f" }),
  functions: fc.array(fc.record({ name, parameters: free }), { minLength: 1, maxLength: 2 }),
};

const id = fc.oneof({ weight: 30, arbitrary: fc.integer({ min: 6, max: 4095 }) }, fc.integer());
const completionFields: Arbitraries = {
  ...common,
  best_of: nullable(fc.integer({ min: 0, max: 20 })),
  echo: nullable(fc.boolean()),
  logprobs: nullable(fc.integer({ min: 0, max: 5 })),
  max_tokens: nullable(fc.oneof({ weight: 9, arbitrary: fc.integer({ min: 0, max: 6 }) }, fc.nat())),
  suffix: nullable(words),
};
const prompt = fc.oneof(
  { weight: 4, arbitrary: words },
  fc.array(words, { maxLength: 3 }),
  fc.array(id, { minLength: 1, maxLength: 8 }),
  fc.array(fc.array(id, { minLength: 1, maxLength: 5 }), { minLength: 1, maxLength: 3 }),
  fc.constant(null),
);

/** Those that must be there, and up to eight of the others. */
function requestOf(required: Arbitraries, optional: Arbitraries): fc.Arbitrary<Fields> {
  const chosen = fc.uniqueArray(fc.constantFrom(...Object.keys(optional)), { maxLength: 8 });
  return chosen.chain(
    (names) =>
      fc.record({
        ...required,
        ...Object.fromEntries(names.map((each) => [each, optional[each]])),
      }) as fc.Arbitrary<Fields>,
  );
}

const model = fc.constant("tiny");
/** Without a limit a chat goes on to the end of its context: right, but slow. */
const short = (request: Fields) =>
  request.max_tokens == null && request.max_completion_tokens == null ? { ...request, max_tokens: 4 } : request;

export const chatRequests = requestOf(
  { model, messages: fc.array(message, { minLength: 1, maxLength: 4 }) },
  chatFields,
).map(short);
export const completionRequests = requestOf({ model, prompt }, completionFields).map(short);

const count = (value: unknown) => (Array.isArray(value) ? value.length : 0);

/** The fields of a valid request that this server may refuse, and says so: what it has not, or what the model cannot. */
export function refusable(request: Fields): Set<string> {
  const {
    n,
    logit_bias: bias,
    stop,
    stream,
    stream_options: options,
    messages,
    prompt,
    logprobs,
  } = request as Fields & {
    n?: number | null;
    logit_bias?: Record<string, number> | null;
    stream_options?: { include_obfuscation?: boolean } | null;
    messages?: { role: string; content?: unknown; audio?: unknown }[];
  };
  const choices = (n ?? 1) * Math.max(1, typeof (prompt as unknown[])?.[0] === "number" ? 1 : count(prompt));
  const ids = (Array.isArray(prompt) ? prompt.flat() : []).filter((each) => typeof each === "number");
  const texts = typeof prompt === "string" || prompt === null ? [prompt] : Array.isArray(prompt) ? prompt : [];
  const asked = [request.max_tokens, request.max_completion_tokens].filter((each) => each != null) as number[];
  const conditions: Record<string, boolean> = {
    n: choices > 64,
    prompt:
      choices > 64 ||
      (count(prompt) === 0 && prompt !== "") ||
      ids.some((each) => each < 0 || each > 4095 || each === 5) ||
      texts.some((each) => String(each).includes("MASK")),
    best_of: request.best_of != null && request.best_of !== (n ?? 1),
    logit_bias: Object.entries(bias ?? {}).some(
      ([key, value]) => !/^\d{1,4}$/.test(key) || Number(key) > 4095 || Math.abs(value) > 100,
    ),
    stop: Array.isArray(stop) && stop.includes(""),
    stream_options: options != null && (!stream || options.include_obfuscation === true),
    max_tokens: asked.some((each) => each < 1 || each > 400),
    max_completion_tokens: asked.some((each) => each < 1 || each > 400),
    top_logprobs: Number(request.top_logprobs) > 0 && logprobs !== true,
    tools: count(request.tools) > 0,
    tool_choice: request.tool_choice != null && request.tool_choice !== "none" && request.tool_choice !== "auto",
    functions: count(request.functions) > 0,
    function_call: typeof request.function_call === "object" && request.function_call !== null,
    response_format: request.response_format != null && (request.response_format as Fields).type !== "text",
    modalities: Array.isArray(request.modalities) && request.modalities.includes("audio"),
    audio: request.audio != null,
    moderation: request.moderation != null,
    web_search_options: request.web_search_options != null,
    // The small model's template knows neither tools nor functions, and says so.
    messages: (Array.isArray(messages) ? messages : []).some(
      ({ content, audio, role }) =>
        role === "tool" ||
        role === "function" ||
        audio != null ||
        (Array.isArray(content) && content.some(({ type }) => type !== "text" && type !== "refusal")),
    ),
  };
  return new Set(Object.keys(conditions).filter((field) => conditions[field]));
}

const object = [[], "x", 1];
const string = [1, {}, []];
const boolean = ["yes", 1, {}];
const penalty = [-2.1, 3, "x", {}];
const natural = [-1, 1.5, "5", {}];

/** Values that OpenAI's schema does not allow. Some it does not are allowed here: temperatures above 2. */
const WRONG: Record<string, unknown[]> = {
  model: [1, {}, []],
  frequency_penalty: penalty,
  presence_penalty: penalty,
  logit_bias: object,
  n: [0, -1, 1.5, 129, "2"],
  seed: [1.5, "1", {}, 2n ** 63n, -(2n ** 63n) - 1n, 2n ** 80n],
  stop: [1, {}, [1], [null]],
  stream: boolean,
  stream_options: [1, "x", { include_usage: "yes" }],
  temperature: [-0.5, "1", [], {}],
  top_p: [-0.1, 1.1, "x"],
  user: string,
  max_tokens: natural,
};
const WRONG_IN_CHAT: Record<string, unknown[]> = {
  ...WRONG,
  messages: [
    [],
    "x",
    {},
    [1],
    [{}],
    [{ role: "poet", content: "x" }],
    [{ role: "user" }],
    [{ role: "user", content: 1 }],
  ],
  max_completion_tokens: natural,
  logprobs: boolean,
  top_logprobs: [-1, 21, 1.5, "x"],
  metadata: [...object, { a: 1 }],
  safety_identifier: string,
  prompt_cache_key: string,
  prompt_cache_options: object,
  service_tier: string,
  store: boolean,
  verbosity: string,
  reasoning_effort: string,
  parallel_tool_calls: boolean,
  prediction: [1, "x", {}],
  modalities: ["text", 1, ["smell"]],
  tools: [1, {}, "x"],
  tool_choice: [1, "sometimes"],
  function_call: [1, "required"],
  response_format: [1, {}, "text"],
};
const WRONG_IN_COMPLETIONS: Record<string, unknown[]> = {
  ...WRONG,
  prompt: [1, {}, [[]], ["a", 1], [null], [-1], [1.5]],
  best_of: [1.5, "1", {}],
  echo: boolean,
  logprobs: natural,
  suffix: string,
};

/** A valid request with one field that is not, and the field. */
function spoiled(valid: fc.Arbitrary<Fields>, wrong: Record<string, unknown[]>): fc.Arbitrary<[Fields, string]> {
  return fc
    .constantFrom(...Object.keys(wrong))
    .chain((field) => fc.tuple(valid, fc.constant(field), fc.constantFrom(...wrong[field])))
    .map(([request, field, value]) => [{ ...request, [field]: value }, field]);
}

export const spoiledChatRequests = spoiled(chatRequests, WRONG_IN_CHAT);
export const spoiledCompletionRequests = spoiled(completionRequests, WRONG_IN_COMPLETIONS);

/** As JSON, a bigint by all its digits. */
export function jsonText(request: Fields): string {
  const { seed, ...rest } = request;
  if (typeof seed !== "bigint") return JSON.stringify(request);
  return `${JSON.stringify(rest).slice(0, -1)},"seed":${seed}}`;
}
