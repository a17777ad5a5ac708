import { distance } from "fastest-levenshtein";
import type * as z from "zod";
import { renamedOption } from "./renamed-options.js";

/**
 * Parses options against a schema.
 *
 * @param what owner of the options, or the file that contains them, for the message
 * @param code code of the error; default: the layer's
 * @throws the layer's error, which lists every invalid key with its path and the allowed values
 */
export type ParseOptions<Code> = <S extends z.ZodType>(
  what: string,
  schema: S,
  value: unknown,
  code?: Code,
) => z.output<S>;

/** Makes the options parser of a layer, with the layer's error class. */
export function optionsParser<Code extends string>(
  LayerError: new (code: Code, message: string, options?: ErrorOptions) => Error,
  defaultCode: NoInfer<Code>,
): ParseOptions<Code> {
  return (what, schema, value, code = defaultCode) => {
    const parsed = schema.safeParse(value);
    if (parsed.success) return parsed.data;
    throw new LayerError(code, problemsOf(what, schema, value, parsed.error), { cause: parsed.error });
  };
}

/** A message that lists every invalid key of a value with its path and the allowed values. */
export function problemsOf(what: string, schema: z.ZodType, value: unknown, error: z.ZodError): string {
  const lines = error.issues.flatMap((issue) => explain(issue, schema, value, []));
  return `${what}:\n${lines.map((line) => `  ${line}`).join("\n")}`;
}

/** The problems of one value according to its schema, one line each. */
export function valueProblems(schema: z.ZodType, value: unknown): string[] {
  const parsed = schema.safeParse(value);
  return parsed.success ? [] : parsed.error.issues.flatMap((issue) => explain(issue, schema, value, []));
}

type Path = readonly PropertyKey[];
type Issue = z.core.$ZodIssue;

/** Formats one issue as lines of "path: problem, allowed values". zod reports only "Invalid input" for a union. */
function explain(issue: Issue, root: z.ZodType, value: unknown, prefix: Path): string[] {
  const path = [...prefix, ...issue.path];
  if (issue.code === "unrecognized_keys") {
    const allowed = allowedKeys(root, path, value);
    return issue.keys.map((key) => {
      const today = renamedOption(key, valueAt(value, [...path, key]), allowed);
      if (today !== undefined) return `${at([...path, key])}${today}`;
      const hint = allowed.length > 0 ? `; allowed: ${allowed.join(", ")}` : "";
      return `${at([...path, key])}unknown key${nearest(key, allowed)}${hint}`;
    });
  }
  if (issue.code === "invalid_union" && issue.errors.length > 0) {
    const closest = closestBranch(issue.errors);
    if (closest) return closest.flatMap((inner) => explain(inner, root, value, path));
    const expected = new Set(issue.errors.flat().flatMap(expectations));
    if (issue.message !== "Invalid input") return [`${at(path)}${issue.message}`];
    const found = describe(valueAt(value, path));
    return [`${at(path)}expected ${[...expected].join(", or ") || "another value"}, got ${found}`];
  }
  if (issue.code === "invalid_value") {
    const allowed = issue.values.map((item) => JSON.stringify(item)).join(", ");
    return [
      `${at(path)}expected ${issue.values.length > 1 ? "one of " : ""}${allowed}, got ${describe(valueAt(value, path))}`,
    ];
  }
  if (issue.code === "invalid_type") {
    const found = valueAt(value, path);
    if (found === undefined) return [`${at(path)}missing (${issue.expected})`];
    return [`${at(path)}expected ${issue.expected}, got ${describe(found)}`];
  }
  return [`${at(path)}${issue.message}`];
}

/**
 * The branch of a union that the value was probably meant for: the one with the fewest issues, none of them about the
 * whole value.
 */
function closestBranch(branches: readonly Issue[][]): Issue[] | undefined {
  const ranked = branches.map((issues) => ({ issues, cost: costOf(issues) })).sort((a, b) => a.cost - b.cost);
  return ranked[0] && ranked[0].cost < NOT_MEANT ? ranked[0].issues : undefined;
}

const NOT_MEANT = 1000;

function costOf(issues: readonly Issue[]): number {
  const costs = issues.map((issue): number => {
    if (issue.code === "unrecognized_keys") return issue.keys.length;
    if (issue.path.length > 0) return 1;
    if (issue.code !== "invalid_union" || issue.errors.length === 0) return NOT_MEANT;
    return Math.min(...issue.errors.map(costOf));
  });
  return costs.reduce((sum, cost) => sum + cost, 0);
}

function expectations(issue: Issue): string[] {
  if (issue.code === "invalid_type") return [issue.expected];
  if (issue.code === "invalid_value") return [`one of ${issue.values.map((item) => JSON.stringify(item)).join(", ")}`];
  if (issue.code === "invalid_union") return issue.errors.flat().flatMap(expectations);
  return issue.message === "Invalid input" ? [] : [issue.message];
}

/** The keys of the object schema at a path, looking through optionals, defaults, transforms and unions. */
function allowedKeys(root: z.ZodType, path: Path, value: unknown): string[] {
  let schemas: Definition[] = [root as unknown as Definition];
  let here: unknown = value;
  for (const key of path) {
    schemas = schemas.flatMap((schema) => unwrap(schema, here)).flatMap((schema) => child(schema, key));
    here = (here as Record<PropertyKey, unknown> | undefined)?.[key];
  }
  const shapes = schemas.flatMap((schema) => unwrap(schema, here)).map((schema) => schema._zod.def.shape);
  return [...new Set(shapes.flatMap((shape) => Object.keys(shape ?? {})))];
}

interface Definition {
  _zod: {
    def: {
      type: string;
      shape?: Record<string, Definition>;
      innerType?: Definition;
      in?: Definition;
      element?: Definition;
      valueType?: Definition;
      options?: Definition[];
      discriminator?: string;
    };
    propValues?: Record<string, Set<unknown>>;
  };
}

function unwrap(schema: Definition, value: unknown): Definition[] {
  const { innerType, in: input, options, discriminator } = schema._zod.def;
  if (innerType) return unwrap(innerType, value);
  if (input) return unwrap(input, value);
  if (!options) return [schema];
  const tag = discriminator && (value as Record<string, unknown> | null)?.[discriminator];
  const tagged = discriminator ? options.filter((option) => option._zod.propValues?.[discriminator]?.has(tag)) : [];
  const inner = (tagged.length > 0 ? tagged : options).flatMap((option) => unwrap(option, value));
  // Of several object schemas, those that share most keys with the value.
  const known = ({ _zod }: Definition) =>
    Object.keys(value ?? {}).filter((key) => key in (_zod.def.shape ?? {})).length;
  const most = Math.max(...inner.map(known));
  return inner.filter((each) => known(each) === most);
}

function child(schema: Definition, key: PropertyKey): Definition[] {
  const { shape, element, valueType } = schema._zod.def;
  const next = shape ? shape[String(key)] : (element ?? valueType);
  return next ? [next] : [];
}

function valueAt(value: unknown, path: Path): unknown {
  return path.reduce<unknown>((inner, key) => (inner as Record<PropertyKey, unknown> | undefined)?.[key], value);
}

/** Formats a path as a prefix: "stages[0].lr: ". */
function at(path: Path): string {
  const text = path.reduce<string>((before, key) => {
    if (typeof key === "number") return `${before}[${key}]`;
    return before === "" ? String(key) : `${before}.${String(key)}`;
  }, "");
  return text === "" ? "" : `${text}: `;
}

function describe(value: unknown): string {
  if (value === undefined) return "nothing";
  if (typeof value === "function") return "a function";
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

function nearest(key: string, allowed: readonly string[]): string {
  const plain = (word: string) => word.toLowerCase().replace(/[^a-z]/g, "");
  const close = allowed
    .map((word) => ({ word, edits: distance(plain(key), plain(word)) }))
    .sort((a, b) => a.edits - b.edits)[0];
  return close && close.edits <= 2 ? ` (did you mean ${close.word}?)` : "";
}
