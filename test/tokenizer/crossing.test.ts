import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { ComponentError } from "../../lib/tokenizer/component.js";
import { Pipeline, type PipelineJson } from "../../lib/tokenizer/pipeline.js";
import { StreamDecoder, type TokenText } from "../../lib/tokenizer/token-stream.js";
import { TokenizerError } from "../../lib/tokenizer/tokenizer-error.js";

/** A text; without more, Rust refuses it. 0 for ids with special tokens: the same as without. */
type Row = [text: string] | [text: string, ids: number[], full: number[] | 0, decoded: string];

interface Crossing {
  models: PipelineJson["model"][];
  cases: [model: number, config: Omit<PipelineJson, "model">, rows: Row[]][];
}

const path = new URL("../fixtures/tokenizer/crossing.json.gz", import.meta.url);
const { models, cases } = JSON.parse(gunzipSync(readFileSync(path)).toString("utf8")) as Crossing;

/** Settings that are refused, by what the message says of them. */
const REFUSED = [
  /the pre-tokenizer "UnicodeScripts" is not supported/,
  /prepend_scheme "first" is only supported/,
  /this regular expression is not supported/,
  /a pattern that matches an empty text is not supported/,
  /the normalizer (reduces|maps) /,
];

describe("settings of tokenizer.json, crossed", () => {
  it("give Rust's ids and texts, or are refused", () => {
    const differences: string[] = [];
    const refused = new Map<string, number>();
    let same = 0;
    for (const [model, config, rows] of cases) {
      const json = { ...config, model: models[model] };
      let pipeline: Pipeline;
      try {
        pipeline = new Pipeline(json);
      } catch (error) {
        const { message, code } = error as ComponentError;
        if (!(error instanceof ComponentError) || code !== "TOKENIZER_UNSUPPORTED") throw error;
        const reason = REFUSED.find((one) => one.test(message));
        expect(reason, `${JSON.stringify(config)}: ${message}`).toBeDefined();
        refused.set(String(reason), (refused.get(String(reason)) ?? 0) + rows.length);
        continue;
      }
      for (const [text, ids, full, decoded] of rows) {
        const got = encodeAndDecode(pipeline, text);
        // Where Rust panics there is nothing to agree with; here it is a result or a coded error.
        if (ids === undefined || JSON.stringify(got) === JSON.stringify([ids, full === 0 ? ids : full, decoded]))
          same++;
        else
          differences.push(
            JSON.stringify({ config, model: { ...json.model, vocab: 0, merges: 0 }, text, got, ids, full, decoded }),
          );
      }
    }
    expect(differences.slice(0, 6).join("\n"), `${differences.length} differ, ${same} are the same`).toBe("");
    expect(same).toBeGreaterThan(2000);
    expect([...refused.values()].reduce((sum, count) => sum + count, 0)).toBeLessThan(same / 4);
  }, 600_000);
});

function encodeAndDecode(pipeline: Pipeline, text: string): unknown {
  try {
    const ids = pipeline.encode(text, { addSpecialTokens: false, parseSpecialTokens: true });
    const full = pipeline.encode(text, { addSpecialTokens: true, parseSpecialTokens: true });
    const stream = new StreamDecoder(asTokenText(pipeline), { skipSpecialTokens: false });
    const streamed = ids.map((id) => stream.push(id)).join("") + stream.flush();
    const decoded = asTokenText(pipeline).decode(ids);
    if (streamed !== decoded) return { streamed, decoded };
    return [ids, full, decoded];
  } catch (error) {
    if (error instanceof TokenizerError) return error.code;
    throw error;
  }
}

/** What Tokenizer makes of a pipeline, without special tokens. Byte-level text is decoded as any other here. */
function asTokenText(pipeline: Pipeline): TokenText {
  return {
    isByteLevel: false,
    isSpecial: () => false,
    rawBytesOf: () => new Uint8Array(0),
    mayChange: (id) => pipeline.mayChange(id),
    decode: (ids) => {
      const tokens = ids.map((id) => pipeline.decodedToken(id)).filter((token) => token !== undefined);
      return tokens.length === 0 ? "" : pipeline.decoder(tokens).join("");
    },
  };
}
