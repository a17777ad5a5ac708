import * as z from "zod";
import { optionsParser } from "../base/options.js";
import { DataError } from "./errors.js";

const extension = z.string().regex(/^(\.[^./\\]+)+$/, 'an extension with its dot, like ".py"');
const bytes = z.int().positive();

const fim = z.strictObject({
  rate: z.number().min(0).max(1).describe("share of documents turned into fill-in-the-middle examples"),
  format: z.enum(["spm", "psm"]).default("spm").describe("spm: suffix, prefix, middle (Seed-Coder)"),
});

/** The options of a code corpus, as written in a curriculum file. */
export const dataOptionsSchema = z.strictObject({
  paths: z
    .union([z.literal("default"), z.array(z.string().min(1)).min(1).readonly()])
    .default("default")
    .describe("folders and files to read; default: node_modules and Python's standard library"),
  extensions: z
    .array(extension)
    .min(1)
    .optional()
    .describe("of the files to take from folders; default: source code, and files of records"),
  exclude: z.array(z.string().min(1)).readonly().default([]).describe("names of folders to leave out"),
  textFields: z
    .array(z.string().min(1))
    .min(1)
    .readonly()
    .default(["text", "content", "code"])
    .describe("of records, the first that is there"),
  maxBytes: bytes.optional().describe("text to take from each path; default: all, 8 MB where paths is default"),
  maxFileBytes: bytes.default(1 << 20).describe("larger files are skipped"),
  maxLineBytes: bytes.default(1000).describe("files with a longer line are skipped as minified"),
  seqLen: z.int().min(2).describe("tokens of a sample"),
  keepDocumentBoundaries: z
    .boolean()
    .default(false)
    .describe("whether samples say where documents start, so that a stage can isolate them; not in the paper"),
  fim: fim.optional().describe("fill-in-the-middle examples; default: none"),
  validationSplit: z
    .number()
    .min(0)
    .max(0.5)
    .default(0.02)
    .describe("share of the text held out, whole packages or folders"),
  shuffle: z.boolean().default(true).describe("another order in every epoch"),
  seed: z.int().min(0).default(0).describe("of the order, the held-out split and FIM"),
  cache: z
    .string()
    .min(1)
    .optional()
    .describe("folder that keeps the tokens; default: DIFFCODER_CACHE in the environment, or .cache/data"),
});

/** The options of supervised fine-tuning data, as written in a curriculum file. */
export const sftDataOptionsSchema = z.strictObject({
  paths: z.array(z.string().min(1)).min(1).readonly().describe("files of records, or folders of them"),
  seqLen: z.int().min(2).describe("tokens of a row"),
  packing: z
    .enum(["best-fit", "sequential"])
    .default("best-fit")
    .describe("best-fit: rows filled with whatever fits; sequential: in the order of the file"),
  keepDocumentBoundaries: z
    .boolean()
    .default(true)
    .describe("whether rows say where conversations start, so that they do not attend to each other"),
  eos: z
    .tuple([z.int().min(0), z.int().min(0)])
    .default([1, 4])
    .describe("how many follow a sample: [min, max]"),
  ignore: z.array(z.string().min(1)).readonly().default([]).describe("fields of records to leave out"),
  shuffle: z.boolean().default(true).describe("another order in every epoch"),
  seed: z.int().min(0).default(0).describe("of the order and of the number of eos"),
});

/** Options as written: all but `seqLen` are optional. */
export type DataOptionsInput = z.input<typeof dataOptionsSchema>;
/** Options with every default filled in. */
export type DataOptions = z.output<typeof dataOptionsSchema>;
/** Options as written: all but `paths` and `seqLen` are optional. */
export type SftDataOptionsInput = z.input<typeof sftDataOptionsSchema>;
/** Options with every default filled in. */
export type SftDataOptions = z.output<typeof sftDataOptionsSchema>;

const parseOptions = optionsParser(DataError, "DATA_OPTIONS");

/**
 * Checks the options of a code corpus and fills in the defaults.
 *
 * @param at location of the options, for the message
 * @throws DataError DATA_OPTIONS: every invalid key with its location and the allowed values
 */
export function parseDataOptions(value: unknown, at = "data"): DataOptions {
  return parseOptions(at, dataOptionsSchema, value);
}

/** Checks the options of supervised fine-tuning data and fills in the defaults, as parseDataOptions() does. */
export function parseSftDataOptions(value: unknown, at = "data"): SftDataOptions {
  return parseOptions(at, sftDataOptionsSchema, value);
}
