/** The current name of an option; if its values changed, too, a map from the values of 0.1.0 to the current ones. */
type CurrentName = string | { name: string; values: Readonly<Record<string, unknown>> };

/**
 * Options that had another name in 0.1.0. Of several current names the one that the schema has at that path applies.
 */
const RENAMED: Readonly<Record<string, CurrentName | readonly CurrentName[]>> = {
  accumulation: "gradientAccumulationSteps",
  batchSize: "globalBatchSize",
  chunkSize: "headChunkSize",
  clip: "maxGradNorm",
  documents: [
    { name: "keepDocumentBoundaries", values: { visible: false, isolated: true } },
    { name: "crossDocumentAttention", values: { visible: true, isolated: false } },
  ],
  facts: "fingerprint",
  heldOut: "validationSplit",
  keepLast: "keepLatest",
  length: "seqLen",
  maxBatchTokens: "maxNumBatchedTokens",
  maxLength: "maxModelLen",
  maxRunning: "maxNumSeqs",
  modelNames: "servedModelNames",
  out: "outputDir",
  passes: "mcSamples",
  prefillChunk: "maxNumBatchedTokens",
  records: "paths",
  saving: { name: "asyncCheckpoint", values: { async: true, sync: false } },
  stopIds: "stopTokenIds",
  thread: { name: "worker", values: { true: "thread", false: "none", process: "process" } },
  times: "timeSampling",
  weights: "quantization",
};

/**
 * The replacement of an option of 0.1.0; undefined for any other key. For options without a schema.
 *
 * @param allowed the current names
 */
export function renamedOption(key: string, value: unknown, allowed: readonly string[]): string | undefined {
  if (!Object.hasOwn(RENAMED, key)) return undefined;
  const candidates = [RENAMED[key]].flat() as CurrentName[];
  const named = candidates.map((each) => (typeof each === "string" ? { name: each, values: {} } : each));
  const today = named.find(({ name }) => allowed.includes(name));
  if (today === undefined) return undefined;
  const { name, values } = today;
  const hint = Object.hasOwn(values, String(value)) ? `: write ${name}: ${JSON.stringify(values[String(value)])}` : "";
  return `it is called ${name} now${hint}`;
}

/**
 * Rejects options of 0.1.0 where no schema does, because an unknown key would be ignored.
 *
 * @param fail makes the layer's error from a message
 */
export function refuseRenamed(options: object, allowed: readonly string[], fail: (message: string) => Error): void {
  for (const [key, value] of Object.entries(options)) {
    if (value === undefined || allowed.includes(key)) continue;
    const problem = renamedOption(key, value, allowed);
    if (problem !== undefined) throw fail(`${key}: ${problem}`);
  }
}

/** Yields every name of 0.1.0 with its current name. */
export function* renamedOptions(): Generator<[before: string, today: string], void, void> {
  for (const [before, names] of Object.entries(RENAMED)) {
    for (const each of [names].flat() as CurrentName[]) yield [before, typeof each === "string" ? each : each.name];
  }
}
