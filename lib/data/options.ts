import * as z from "zod";
import { optionsParser } from "../base/options.js";
import { DataError } from "./errors.js";

const extension = z.string().regex(/^(\.[^./\\]+)+$/, 'an extension with its dot, like ".py"');
const bytes = z.int().positive().meta({ unit: "bytes" });

const fim = z.strictObject({
  rate: z.number().min(0).max(1).describe("fraction of documents that become fill-in-the-middle examples"),
  format: z
    .enum(["spm", "psm"])
    .default("spm")
    .describe("spm: suffix, prefix, middle (Seed-Coder); psm: prefix, suffix, middle"),
});

/** The options of a code corpus, as written in a curriculum file. */
export const dataOptionsSchema = z.strictObject({
  paths: z
    .union([z.literal("default"), z.array(z.string().min(1)).min(1).readonly()])
    .default("default")
    .describe("folders and files of code or of records; default: node_modules and Python's standard library"),
  extensions: z
    .array(extension)
    .min(1)
    .optional()
    .describe("extensions of the files to read in folders; default: source code and files of records"),
  exclude: z.array(z.string().min(1)).readonly().default([]).describe("names of folders to skip"),
  textFields: z
    .array(z.string().min(1))
    .min(1)
    .readonly()
    .default(["text", "content", "code"])
    .describe("fields (or columns) of a record that may hold its text; the first one present is read"),
  maxBytes: bytes
    .optional()
    .describe("maximum size of the text from each path; default: no limit, 8 MB for the default paths"),
  maxFileBytes: bytes.default(1 << 20).describe("maximum size of a file; larger ones are skipped"),
  maxLineBytes: bytes
    .default(1000)
    .describe("maximum length of a line; files with a longer one are skipped as minified"),
  seqLen: z.int().min(2).describe("number of tokens in a sample"),
  keepDocumentBoundaries: z
    .boolean()
    .default(false)
    .describe("keep the starts of documents in samples, so that a stage can isolate them; the paper does not"),
  fim: fim
    .optional()
    .describe(
      "`{ rate, format? }`: make this fraction of documents fill-in-the-middle examples; format: spm or psm; default: none",
    ),
  validationSplit: z
    .number()
    .min(0)
    .max(0.5)
    .default(0.02)
    .describe("fraction of the text that is held out, in whole packages or folders"),
  shuffle: z.boolean().default(true).describe("change the order in every epoch"),
  seed: z.int().min(0).default(0).describe("random seed of the order, the held-out split and fill-in-the-middle"),
  cache: z
    .string()
    .min(1)
    .optional()
    .describe("folder that keeps the tokens; default: the variable `DIFFCODER_CACHE`, or `.cache/data`"),
});

/** The options of supervised fine-tuning data, as written in a curriculum file. */
export const sftDataOptionsSchema = z.strictObject({
  paths: z.array(z.string().min(1)).min(1).readonly().describe("files of records, or folders of them"),
  seqLen: z.int().min(2).describe("number of tokens in a row"),
  packing: z
    .enum(["best-fit", "sequential"])
    .default("best-fit")
    .describe("how samples fill rows; best-fit: least padding; sequential: in the order of the file"),
  keepDocumentBoundaries: z
    .boolean()
    .default(true)
    .describe("keep the starts of conversations in rows, so that conversations do not attend to each other"),
  eos: z
    .tuple([z.int().min(0), z.int().min(0)])
    .default([1, 4])
    .describe("minimum and maximum number of end tokens after a sample (section 2)"),
  ignore: z.array(z.string().min(1)).readonly().default([]).describe("fields of records to ignore"),
  shuffle: z.boolean().default(true).describe("change the order in every epoch"),
  seed: z.int().min(0).default(0).describe("random seed of the order and of the number of end tokens"),
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
