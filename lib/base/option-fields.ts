import * as z from "zod";

/** The JSON schema of an option, with what `.meta` adds to it. */
export interface OptionJsonSchema {
  type?: string;
  description?: string;
  default?: unknown;
  enum?: unknown[];
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  items?: OptionJsonSchema;
  properties?: Record<string, OptionJsonSchema>;
  required?: string[];
  anyOf?: OptionJsonSchema[];
  unit?: "seconds" | "milliseconds" | "bytes";
  placeholder?: string;
}

/** One option of a zod schema. Flags, help texts and the tables of the documents are generated from these. */
export interface OptionField {
  key: string;
  /** Validates the value of this option alone. */
  schema: z.ZodType;
  json: OptionJsonSchema;
  description: string;
  required: boolean;
}

/** The options of an object schema, in the order of its keys. */
export function optionFields(schema: z.ZodObject): OptionField[] {
  const json = z.toJSONSchema(schema, { io: "input", unrepresentable: "any" }) as OptionJsonSchema;
  return Object.entries(schema.shape).map(([key, field]) => {
    const own = json.properties?.[key] ?? {};
    return {
      key,
      schema: field as z.ZodType,
      json: own,
      description: own.description ?? "",
      required: json.required?.includes(key) ?? false,
    };
  });
}

/** `maxNumSeqs` is `max-num-seqs`. */
export function kebabCase(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/**
 * The allowed values of an option in words: "an integer from 1 to 65535"; undefined if the message of its schema is
 * better.
 */
export function allowedValues({ type, unit, enum: values, ...limits }: OptionJsonSchema): string | undefined {
  if (values) return `one of ${values.map((value) => JSON.stringify(value)).join(", ")}`;
  if (type !== "integer" && type !== "number") return undefined;
  const { minimum, exclusiveMinimum, maximum } = limits;
  const from = minimum === undefined || minimum === Number.MIN_SAFE_INTEGER ? "" : ` from ${minimum}`;
  const above = exclusiveMinimum === undefined ? "" : ` above ${exclusiveMinimum}`;
  const to = maximum === undefined || maximum === Number.MAX_SAFE_INTEGER ? "" : ` to ${maximum}`;
  const range = `${above || from}${to}`;
  if (unit === "bytes") return `a size such as 5GB, 512MiB or 5000000,${range} bytes`;
  return `${type === "integer" ? "an integer" : "a number"}${range}`;
}

declare module "zod" {
  interface GlobalMeta {
    /** Unit of a number, which command-line flags and tables of options show. */
    unit?: "seconds" | "milliseconds" | "bytes";
    /** What a command-line flag writes for the value: `<folder>`. Default: by the type, or the name's last word. */
    placeholder?: string;
  }
}

// Schemas that options of several layers share. Checks and a description can be added to each:
// `secondsSchema.default(60).describe("...")`.

/** A duration of at most a week: timers count milliseconds in 32 bits. */
export const secondsSchema = z
  .number()
  .min(0)
  .max(86_400 * 7)
  .meta({ unit: "seconds" });

/** A number of bytes. On a command line it may have a suffix: 4GiB. */
export const bytesSchema = z.number().min(1).meta({ unit: "bytes" });

/** A device that a model can run on. */
export const deviceSchema = z.string().regex(/^(cpu|cuda(:\d+)?)$/, 'expected "cpu", "cuda" or "cuda:NUMBER"');

/** A TCP port. Add `.min(1)`, or `.min(0)` where 0 means any free port. */
export const portSchema = z.number().int().max(65_535);

/** A path of a folder, and one of a file. */
export const folderSchema = z.string().min(1).meta({ placeholder: "folder" });
export const fileSchema = z.string().min(1).meta({ placeholder: "path" });
