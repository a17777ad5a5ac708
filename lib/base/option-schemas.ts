import * as z from "zod";

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
