import fc from "fast-check";

/** Values that no field wants, and that JSON can still hold. */
const strange: fc.Arbitrary<unknown> = fc.oneof(
  fc.constantFrom<unknown>(null, true, false, 0, -1, 1.5, -0, 1e308, -1e308, 2 ** 53, 2 ** 31, "", "\u0000", "NaN"),
  fc.constantFrom<unknown>({}, [], [[]], [null], { a: 1 }, "\ud800", "<[MASK_TOKEN]>", "x".repeat(5000)),
  fc.integer(),
  fc.double({ noNaN: true, noDefaultInfinity: true }),
  fc.string({ unit: "binary", maxLength: 40 }),
  fc.array(fc.integer({ min: -10, max: 5000 }), { maxLength: 20 }),
  fc.array(fc.string({ maxLength: 5 }), { maxLength: 10 }),
  fc.jsonValue({ maxDepth: 4 }),
);

type Schema = Record<string, unknown>;

/** Values that a schema of the OpenAPI document allows, more or less: limits are often left out on purpose. */
function fitting(schema: Schema): fc.Arbitrary<unknown> {
  const options = (schema.anyOf ?? schema.oneOf) as Schema[] | undefined;
  if (options) return fc.oneof(...options.map(fitting));
  if ("const" in schema) return fc.constant(schema.const);
  if (Array.isArray(schema.enum)) return fc.constantFrom(...schema.enum);
  switch (schema.type) {
    case "boolean":
      return fc.boolean();
    case "null":
      return fc.constant(null);
    case "integer":
      return fc.integer({ min: Number(schema.minimum ?? -2), max: Math.min(30, Number(schema.maximum ?? 30)) });
    case "number":
      return fc.double({ min: Number(schema.minimum ?? 0), max: Number(schema.maximum ?? 2), noNaN: true });
    case "string":
      return fc.string({ maxLength: 12 });
    case "array":
      return fc.array(fitting((schema.items ?? {}) as Schema), {
        minLength: Number(schema.minItems ?? 0),
        maxLength: 3,
      });
    case "object": {
      const properties = (schema.properties ?? {}) as Record<string, Schema>;
      if (Object.keys(properties).length === 0) return fc.dictionary(fc.string({ maxLength: 4 }), fc.integer());
      const required = (schema.required ?? []) as string[];
      return fc.record(Object.fromEntries(Object.entries(properties).map(([name, each]) => [name, fitting(each)])), {
        requiredKeys: required,
      });
    }
    default:
      return strange;
  }
}

/** Most conversations that fit are refused: by the model's template, or for a message that says nothing. */
function fittingField(name: string, properties: Record<string, Schema>): fc.Arbitrary<unknown> {
  const any = fitting(properties[name]);
  if (name !== "messages") return any;
  return fc.oneof(
    fc.string({ maxLength: 12 }).map((content) => [{ role: "user", content }]),
    any,
  );
}

/** A request of one field that has to be there, some that fit, and some that do not. */
export function requests(schema: Schema): fc.Arbitrary<Record<string, unknown>> {
  const properties = schema.properties as Record<string, Schema>;
  const names = Object.keys(properties);
  const required = fc.record(
    Object.fromEntries(((schema.required ?? []) as string[]).map((name) => [name, fittingField(name, properties)])),
  );
  const one = fc
    .constantFrom(...names)
    .chain((name) =>
      fc.tuple(fc.constant(name), fc.oneof({ weight: 3, arbitrary: fitting(properties[name]) }, strange)),
    );
  const unknown = fc.tuple(fc.string({ maxLength: 10 }), strange);
  // Short answers; and of what excludes each other one.
  const few = "tokens" in properties ? {} : "max_tokens" in properties ? { max_tokens: 3 } : { prompt: "x" };
  return fc
    .tuple(required, fc.array(fc.oneof({ weight: 6, arbitrary: one }, unknown), { maxLength: 5 }))
    .map(([base, more]) => ({ ...few, ...base, ...Object.fromEntries(more) }));
}

/** Bodies: requests as JSON, and JSON that was damaged. */
export function bodies(schema: Schema): fc.Arbitrary<Uint8Array | string> {
  const text = requests(schema).map((request) => JSON.stringify(request));
  const damaged = fc
    .tuple(text, fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 4 }))
    .map(([whole, changes]) => {
      const bytes = Buffer.from(whole);
      for (const [at, byte] of changes) bytes[at % bytes.length] = byte;
      return bytes;
    });
  const literals = fc.constantFrom(
    "",
    "null",
    "[]",
    "1",
    '"x"',
    "{",
    '{"prompt":NaN}',
    '{"prompt":"x","temperature":Infinity}',
    '{"prompt":"x","temperature":1e999}',
    '{"prompt":"x","seed":1e999}',
    '{"__proto__":{"prompt":"x"}}',
    '{"prompt":"x","constructor":{}}',
    `{"prompt":${"[".repeat(500)}${"]".repeat(500)}}`,
    `{"prompt":"x","dllm":${'{"dllm":'.repeat(40)}1${"}".repeat(40)}}`,
    '\ufeff{"prompt":"x","max_tokens":1}',
    '{"prompt":"\\ud800","max_tokens":1}',
    '{"prompt":"x","prompt":[],"max_tokens":1}',
  );
  return fc.oneof(
    { weight: 8, arbitrary: text },
    { weight: 2, arbitrary: damaged },
    literals,
    fc.uint8Array({ maxLength: 30 }),
  );
}
