/** A name that an option has today; where its values changed, too, those of today by those of 0.1.0. */
type CurrentName = string | { name: string; values: Readonly<Record<string, unknown>> };

/** Options that had another name in 0.1.0. Of several names of today the one counts that the schema has at that place. */
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
 * What to write instead of an option of 0.1.0; undefined for any other key. For options that no schema checks.
 *
 * @param allowed the names of today
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
 * Refuses options of 0.1.0 where no schema does, because an unknown key would be ignored.
 *
 * @param fail makes the layer's error of a message
 */
export function refuseRenamed(options: object, allowed: readonly string[], fail: (message: string) => Error): void {
  for (const [key, value] of Object.entries(options)) {
    if (value === undefined || allowed.includes(key)) continue;
    const problem = renamedOption(key, value, allowed);
    if (problem !== undefined) throw fail(`${key}: ${problem}`);
  }
}

/** Every name of 0.1.0 with a name that it has today. */
export function* renamedOptions(): Generator<[before: string, today: string], void, void> {
  for (const [before, names] of Object.entries(RENAMED)) {
    for (const each of [names].flat() as CurrentName[]) yield [before, typeof each === "string" ? each : each.name];
  }
}
