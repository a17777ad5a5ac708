import { Command } from "commander";
import { describe, expect, it } from "vitest";
import * as z from "zod";
import { optionsParser } from "../../lib/base/options.js";
import { serveCommand } from "../../lib/cli/commands.js";
import { addFlags, parseFlags, shownFlags } from "../../lib/cli/flags.js";
import { EngineError } from "../../lib/engine/errors.js";
import { engineOptionsSchema } from "../../lib/engine/options.js";
import { serverOptionsSchema } from "../../lib/server/options.js";
import { optionTable } from "../../scripts/lib/option-tables.js";

/** The engine's options, and one more in one line. */
const schema = engineOptionsSchema.safeExtend({
  scratchSize: z.number().int().min(2).max(9).default(4).describe("size of the scratch area, see `pageSize`"),
});

function command(): Command {
  const quiet = { writeErr: () => {}, writeOut: () => {} };
  return addFlags(new Command("serve").exitOverride().configureOutput(quiet), schema).action(() => {});
}

const read = (...words: string[]) => parseFlags(schema, command().parse(words, { from: "user" }).opts());

describe("an option that is one line of a schema", () => {
  it("is a flag, with its help text and its default", () => {
    const help = command().configureHelp({ helpWidth: 200 }).helpInformation();
    expect(help).toMatch(/^ {2}--scratch-size <n> +size of the scratch area, see --page-size \(default: 4\)$/m);
    expect(read().scratchSize).toBe(4);
    expect(read("--scratch-size", "7").scratchSize).toBe(7);
    expect(shownFlags(schema, { scratchSize: 7 })).toEqual(["--scratch-size", "7"]);
  });

  it("leaves an option to the file where its flag is not given, also one that is true by default", () => {
    const settings = z.strictObject({ eager: z.boolean().default(true).describe("start at once") });
    const given = (...args: string[]) =>
      addFlags(new Command(), settings, { noDefaults: true }).parse(args, { from: "user" }).opts();
    expect(given()).not.toHaveProperty("eager", true);
    expect(given("--no-eager")).toEqual({ eager: false });
  });

  it("is refused on the command line with the allowed values, and with the name that was meant", () => {
    expect(() => read("--scratch-size", "10")).toThrow(
      "error: option '--scratch-size <n>' argument '10' is invalid. expected an integer from 2 to 9",
    );
    expect(() => read("--scratch-size", "much")).toThrow(/expected an integer from 2 to 9/);
    expect(() => read("--scratch-sise", "3")).toThrow(
      /unknown option '--scratch-sise'\n\(Did you mean --scratch-size\?\)/,
    );
  });

  it("is parsed in a program, with the same default and a message of the same kind", () => {
    const parse = optionsParser(EngineError, "ENGINE_OPTIONS");
    expect(parse("engine options", schema, {}).scratchSize).toBe(4);
    expect(() => parse("engine options", schema, { scratchSize: "3" })).toThrow(
      'engine options:\n  scratchSize: expected number, got "3"',
    );
    expect(() => parse("engine options", schema, { scratchSise: 3 })).toThrow(
      /scratchSise: unknown key \(did you mean scratchSize\?\); allowed: .*scratchSize/,
    );
  });

  it("is a row of the documents' table", () => {
    const row = optionTable(schema)
      .split("\n")
      .find((line) => line.includes("scratchSize"));
    expect(row?.replace(/ +/g, " ")).toBe("| `scratchSize` | `4` | Size of the scratch area, see `pageSize`. |");
  });
});

describe("diffcoder serve", () => {
  it("has a flag for every option of the engine and of the server", () => {
    const flags = serveCommand().options.flatMap(({ long, hidden }) => (long && !hidden ? [long] : []));
    for (const key of [...Object.keys(engineOptionsSchema.shape), ...Object.keys(serverOptionsSchema.shape)]) {
      const name = key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
      expect(
        flags.filter((flag) =>
          [`--${name}`, `--no-${name}`, `--${name.replace(/s$/, "")}`, `--${name}-key`].includes(flag),
        ),
        key,
      ).toHaveLength(1);
    }
  });
});
