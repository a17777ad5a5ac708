import { type Command, InvalidArgumentError, Option } from "commander";
import type * as z from "zod";
import {
  allowedValues,
  kebabCase,
  type OptionField,
  type OptionJsonSchema,
  optionFields,
} from "../base/option-fields.js";
import { problemsOf, valueProblems } from "../base/options.js";
import { renamedOptions } from "../base/renamed-options.js";
import { CliError } from "./errors.js";

/** Command-line settings of an option, in addition to its schema. */
export interface FlagHint {
  /** One letter: `p` for -p. */
  short?: string;
  /** Environment variable that is used without the flag. */
  env?: string;
  /** Keys of options that cannot be given together with this one. */
  conflicts?: string[];
  /**
   * One flag for each field of an object: `--tls-key`, `--tls-cert`. Otherwise an object is written
   * `name=value,name=value`.
   */
  flatten?: boolean;
  /** Several values may follow the flag. It may be repeated in any case. */
  variadic?: boolean;
}

export interface FlagGroup {
  /** Heading in the help text. */
  title?: string;
  hints?: Readonly<Record<string, FlagHint>>;
  /** Default values come from elsewhere, such as a file: a flag that is not given stays undefined. */
  noDefaults?: boolean;
}

/**
 * Adds a flag for each option of an object schema to a command.
 *
 * A flag's name is its key in kebab case; for an array it is singular, and the flag may be repeated. A boolean that is
 * true by default gets a flag `--no-NAME`. The help text is the schema's description. Each value is validated by its
 * schema when it is read. Options without a text form, such as functions, get no flag. Names of 0.1.0 are rejected.
 */
export function addFlags(command: Command, schema: z.ZodObject, group: FlagGroup = {}): Command {
  for (const option of flagsOf(schema, group)) {
    command.addOption(group.title === undefined ? option : option.helpGroup(group.title));
    // commander sets the value of `--no-NAME` to true if the flag is not given.
    if (group.noDefaults && option.negate) command.setOptionValue(option.attributeName(), undefined);
  }
  for (const [before, today] of renamedOptions()) {
    if (today in schema.shape && !(before in schema.shape)) refuseFlag(command, before, flagName(today));
  }
  return command;
}

/** Adds a hidden flag that is rejected with its current name. */
export function refuseFlag(command: Command, before: string, today: string): void {
  const refuse = () => {
    throw new InvalidArgumentError(`It is called ${today} now.`);
  };
  const flags = `--${kebabCase(before)} [value]`;
  command.addOption(new Option(flags).preset("").argParser(refuse).hideHelp());
}

/**
 * Parses the options of a command line with a schema, including defaults.
 *
 * @throws CliError CLI_USAGE listing each invalid flag, also for rules between several options
 */
export function parseFlags<S extends z.ZodObject>(schema: S, given: Record<string, unknown>): z.output<S> {
  const flags = new Map<string, string>();
  for (const { key, json } of optionFields(schema)) {
    flags.set(key, flagName(key, json));
    for (const [name, inner] of Object.entries(json.properties ?? {})) {
      flags.set(`${key}.${name}`, flagName(`${key}-${name}`, inner));
    }
  }
  const values = givenOptions(schema, given);
  const parsed = schema.safeParse(values);
  if (parsed.success) return parsed.data;
  const problems = problemsOf("options", schema, values, parsed.error);
  const named = problems.replace(/^ {2}([\w.]+): /gm, (line, path) => {
    return flags.has(path) ? `  ${flags.get(path)}: ` : line;
  });
  throw new CliError(named, { cause: parsed.error });
}

/** The options given on a command line, without defaults. */
export function givenOptions<S extends z.ZodObject>(schema: S, given: Record<string, unknown>): Partial<z.input<S>> {
  const values: Record<string, unknown> = {};
  for (const { key, json } of optionFields(schema)) {
    const value = given[attributeName(key, json)];
    if (value !== undefined) values[key] = value;
    for (const [name, inner] of Object.entries(json.properties ?? {})) {
      const each = given[attributeName(`${key}-${name}`, inner)];
      if (each !== undefined) values[key] = { ...(values[key] as object | undefined), [name]: each };
    }
  }
  return values as Partial<z.input<S>>;
}

/** The words of a command line that set options to these values. */
export function shownFlags(schema: z.ZodObject, values: Record<string, unknown>): string[] {
  return optionFields(schema).flatMap(({ key, json }) => {
    const value = values[key];
    const name = flagName(key, json);
    if (value === undefined) return [];
    if (typeof value === "boolean") return [value ? `--${kebabCase(key)}` : `--no-${kebabCase(key)}`];
    if (Array.isArray(value)) return value.flatMap((each) => [name, String(each)]);
    return [name, typeof value === "object" ? pairsText(value as object) : String(value)];
  });
}

function flagsOf(schema: z.ZodObject, group: FlagGroup, prefix = ""): Option[] {
  return optionFields(schema).flatMap((field) => {
    const hint = group.hints?.[field.key] ?? {};
    const inner = objectSchema(field.schema);
    if (inner && hint.flatten) return flagsOf(inner, { ...group, noDefaults: true }, `${prefix}${field.key}-`);
    if (!isText(field.json)) return [];
    // A field of an object, which parseFlags checks as a whole.
    const required = field.required && prefix === "";
    return [
      flagOf({ ...field, required, key: `${prefix}${field.key}`, description: helpText(field, schema) }, hint, group),
    ];
  });
}

function flagOf(field: OptionField, hint: FlagHint, { noDefaults = false }: FlagGroup): Option {
  const { key, json, description } = field;
  const negated = json.type === "boolean" && json.default === true;
  const names = `${hint.short === undefined ? "" : `-${hint.short}, `}${flagName(key, json)}`;
  if (json.type === "boolean") {
    return new Option(names, negated ? `do not ${description}` : description).conflicts(hint.conflicts ?? []);
  }
  const option = new Option(`${names} <${placeholder(key, json)}${hint.variadic ? "..." : ""}>`, description);
  option.argParser((text: string, previous: unknown) => flagValue(field, text, previous));
  if (json.enum) option.choices(json.enum.map(String));
  if (hint.conflicts) option.conflicts(hint.conflicts);
  if (hint.env !== undefined) option.env(hint.env);
  if (field.required) option.makeOptionMandatory();
  const { default: value } = json;
  if (noDefaults || value === undefined || typeof value === "object") return option;
  return option.default(value, json.unit === "bytes" ? bytesText(value as number) : undefined);
}

/** The name of a flag; singular for an array. */
function flagName(key: string, json: OptionJsonSchema = {}): string {
  const name = kebabCase(json.type === "array" ? key.replace(/s$/, "") : key);
  return json.type === "boolean" && json.default === true ? `--no-${name}` : `--${name}`;
}

/** The key under which commander stores the value of a flag. */
function attributeName(key: string, json: OptionJsonSchema): string {
  return flagName(key, { ...json, default: undefined })
    .slice(2)
    .replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

function placeholder(key: string, { type, unit, placeholder: given, items, properties }: OptionJsonSchema): string {
  const named = given ?? items?.placeholder;
  if (named !== undefined) return named;
  if (properties) return "name=value,...";
  if (unit !== undefined) return { seconds: "s", milliseconds: "ms", bytes: "size" }[unit];
  if (type === "integer" || type === "number") return "n";
  return kebabCase(type === "array" ? key.replace(/s$/, "") : key)
    .split("-")
    .slice(-1)[0];
}

/** A description without Markdown, with flags in place of the keys of other options. */
function helpText({ json, description }: OptionField, { shape }: z.ZodObject): string {
  const text = description.replace(/`([^`]*)`/g, (_, code: string) => (code in shape ? `--${kebabCase(code)}` : code));
  return json.type === "array" ? `${text} (repeatable)` : text;
}

/** Whether a value can be written as text. */
function isText({ type, enum: values, anyOf, items, properties }: OptionJsonSchema): boolean {
  if (values || ["string", "number", "integer", "boolean"].includes(type ?? "")) return true;
  if (type === "array") return items !== undefined && isText(items);
  if (type === "object") return properties !== undefined;
  return anyOf?.some(isText) ?? false;
}

function flagValue({ schema, json }: OptionField, text: string, previous: unknown): unknown {
  const before = Array.isArray(previous) ? previous : [];
  const value = json.type === "array" ? [...before, readText(json.items ?? {}, text)] : readText(json, text);
  const problems = valueProblems(schema, value);
  if (problems.length === 0) return value;
  const allowed = allowedValues(json.type === "array" ? (json.items ?? {}) : json);
  throw new InvalidArgumentError(allowed === undefined ? problems.join("; ") : `expected ${allowed}`);
}

/**
 * Converts a text by the type of its option. A text that cannot be converted is returned unchanged and rejected by the
 * schema.
 */
function readText(json: OptionJsonSchema, text: string): unknown {
  if (json.properties) return readPairs(json, text);
  if (json.unit === "bytes") return bytesOf(text) ?? text;
  const types = json.anyOf ? json.anyOf.map(({ type }) => type) : [json.type];
  if (types.includes("boolean") && /^(true|false)$/.test(text)) return text === "true";
  if (!types.includes("integer") && !types.includes("number")) return text;
  const value = Number(text);
  if (text.trim() === "" || Number.isNaN(value)) return text;
  return /^-?\d+$/.test(text) && !Number.isSafeInteger(value) ? BigInt(text) : value;
}

/** Reads `name=value,inner.name=value`. */
function readPairs(json: OptionJsonSchema, text: string): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const part of text.split(",")) {
    const [, path, value] = /^\s*([\w.]+)=(.*?)\s*$/.exec(part) ?? [];
    if (path === undefined) throw new InvalidArgumentError("expected NAME=VALUE,NAME=VALUE");
    const keys = path.split(".");
    const last = keys.pop() ?? "";
    let target = values;
    let inner: OptionJsonSchema = json;
    for (const key of keys) {
      target[key] ??= {};
      target = target[key] as Record<string, unknown>;
      inner = inner.properties?.[key] ?? {};
    }
    target[last] = readText(inner.properties?.[last] ?? {}, value);
  }
  return values;
}

function pairsText(value: object, prefix = ""): string {
  return Object.entries(value)
    .map(([key, each]) =>
      typeof each === "object" ? pairsText(each, `${prefix}${key}.`) : `${prefix}${key}=${String(each)}`,
    )
    .join(",");
}

/** Reads a size in bytes: 4GiB is 4 x 1024^3, 4GB and 4G are 4 x 1000^3. */
export function bytesOf(text: string): number | undefined {
  const match = /^\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b)?\s*$/i.exec(text);
  const [, number, unit = "", binary] = match ?? [];
  const power = " kmgt".indexOf(unit.toLowerCase() || " ");
  return match ? Math.floor(Number(number) * (binary ? 1024 : 1000) ** power) : undefined;
}

/** 4194304 is 4MiB, 5000000000 is 5GB. */
function bytesText(bytes: number): string {
  for (const [base, suffix] of [
    [1024, "iB"],
    [1000, "B"],
  ] as const) {
    for (const [i, unit] of ["T", "G", "M", "K"].entries()) {
      const value = bytes / base ** (4 - i);
      if (value >= 1 && Number.isInteger(value)) return `${value}${unit}${suffix}`;
    }
  }
  return String(bytes);
}

/** The object schema behind an option's default and optional. */
function objectSchema(schema: z.ZodType): z.ZodObject | undefined {
  const { def } = schema._zod as unknown as { def: { type: string; innerType?: z.ZodType } };
  if (def.type === "object") return schema as z.ZodObject;
  return def.innerType && objectSchema(def.innerType);
}
