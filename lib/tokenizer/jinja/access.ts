import { isLookupError, PyError, typeError, UnsupportedFeature } from "./errors.js";
import { formatBraces } from "./format-braces.js";
import { step } from "./meter.js";
import { dictMethod, MUTATING, numberAttribute, sequenceMethod } from "./methods.js";
import { DictView, itemOf, Range } from "./sequences.js";
import { stringMethod } from "./string-methods.js";
import { quote, repr } from "./text.js";
import {
  Callable,
  Dict,
  Generator,
  type Kwargs,
  Markup,
  PyObject,
  Tuple,
  typeName,
  Undefined,
  type Value,
} from "./values.js";

/** Attributes of every Python object. */
const OBJECT = names(
  "class delattr dir doc eq format ge getattribute getstate gt hash init init_subclass le lt ne new reduce reduce_ex repr setattr sizeof str subclasshook",
);
const SEQUENCE = "add contains getitem iter len mul rmul";
const NUMBER =
  "abs add bool divmod float floor ceil floordiv getnewargs int mod mul neg pos pow radd rdivmod rfloordiv rmod rmul round rpow rsub rtruediv sub truediv trunc";
const VIEW = "and contains iter len or rand reversed ror rsub rxor sub xor";
const FUNCTION = "annotations builtins call closure code defaults dict get globals kwdefaults module name qualname";

/** Additional attributes with underscores, by type. The sandbox forbids their use. */
const SPECIAL: Readonly<Record<string, ReadonlySet<string>>> = {
  str: names(`${SEQUENCE} getnewargs mod rmod`),
  Markup: names(`${SEQUENCE} getnewargs mod rmod html html_format module radd slots`),
  list: names(`${SEQUENCE} class_getitem delitem iadd imul reversed setitem`),
  dict: names("class_getitem contains delitem getitem ior iter len or reversed ror setitem"),
  tuple: names(`${SEQUENCE} class_getitem getnewargs`),
  int: names(`${NUMBER} and index invert lshift or rand rlshift ror rrshift rshift rxor xor`),
  bool: names(`${NUMBER} and index invert lshift or rand rlshift ror rrshift rshift rxor xor`),
  float: names(`${NUMBER} getformat`),
  NoneType: names("bool"),
  range: names("bool contains getitem iter len reversed"),
  generator: names("del iter name next qualname"),
  dict_keys: names(VIEW),
  dict_items: names(VIEW),
  dict_values: names("iter len reversed"),
  function: names(FUNCTION),
  builtin_function_or_method: names("call module name qualname self text_signature"),
  Macro: names("call dict module weakref"),
  LoopContext: names("annotations call dict iter len module next weakref"),
};

function names(list: string): ReadonlySet<string> {
  return new Set(list.split(" ").map((name) => `__${name}__`));
}

/** value.name in Jinja's sandbox: the attribute, else the element with that key, else undefined. */
export function getAttribute(value: Value, name: string): Value {
  step();
  if (value instanceof Undefined && !name.startsWith("_")) throw value.fail();
  const attribute = attributeOf(value, name);
  if (attribute !== undefined) return attribute;
  return lookUp(value, name, () => itemOf(value, name));
}

/**
 * value[key], for a key that is not a slice: the element, else, for a str key, the attribute of that name, else
 * undefined.
 */
export function getItem(value: Value, key: Value): Value {
  step();
  return lookUp(
    value,
    key,
    () => itemOf(value, key),
    () => (typeof key === "string" ? attributeOf(value, key) : undefined),
  );
}

/** The result of `find`; if the element is missing, the result of `otherwise`, else an undefined value. */
export function lookUp(value: Value, key: Value, find: () => Value, otherwise?: () => Value | undefined): Value {
  try {
    return find();
  } catch (error) {
    if (!isLookupError(error) && !(error instanceof PyError && error.kind === "TypeError")) throw error;
    return otherwise?.() ?? missing(value, key);
  }
}

function missing(value: Value, key: Value): Undefined {
  return new Undefined(() => {
    const type = objectType(value);
    return typeof key === "string" ? `'${type}' has no attribute ${quote(key)}` : `${type} has no element ${repr(key)}`;
  });
}

function objectType(value: Value): string {
  return value === null ? "None" : `${typeName(value)} object`;
}

/** An attribute that the sandbox allows, an undefined value for a forbidden one, or undefined if there is none. */
export function attributeOf(value: Value, name: string): Value | undefined {
  const type = typeName(value);
  if (name.startsWith("_")) return hasSpecial(value, type, name) ? unsafe(type, name) : undefined;
  if (MUTATING[type]?.has(name)) return unsafe(type, name);
  if (typeof value === "string") return textMethod(value, name);
  if (value instanceof Markup) return markupMethod(value, name);
  if (Array.isArray(value) || value instanceof Tuple) {
    return (value instanceof Tuple ? value.attribute(name) : undefined) ?? sequenceMethod(value, name);
  }
  if (value instanceof Range) return value.attribute(name) ?? sequenceMethod(value, name);
  if (value instanceof Dict) return dictMethod(value, name);
  if (typeof value === "bigint" || typeof value === "number" || typeof value === "boolean") {
    return numberAttribute(value, name);
  }
  if (value instanceof Generator && type === "generator") {
    if (name === "gi_frame" || name === "gi_code") return unsafe(type, name);
    if (["close", "gi_running", "gi_suspended", "gi_yieldfrom", "send", "throw"].includes(name)) {
      throw new UnsupportedFeature(`the attribute ${name} of a generator`);
    }
  }
  if (value instanceof DictView && (name === "isdisjoint" || name === "mapping")) {
    throw new UnsupportedFeature(`the attribute ${name} of a dict view`);
  }
  return value instanceof PyObject ? value.attribute(name) : undefined;
}

function hasSpecial(value: Value, type: string, name: string): boolean {
  if (value instanceof Undefined) {
    return OBJECT.has(name) || UNDEFINED.has(name);
  }
  return OBJECT.has(name) || (SPECIAL[type]?.has(name) ?? false);
}

const UNDEFINED = new Set([
  ...names("add aiter bool call complex div float floordiv getattr getitem int iter len mod module mul neg pos pow"),
  ...names("radd rdiv rfloordiv rmod rmul rpow rsub rtruediv slots sub truediv"),
  "_fail_with_undefined_error",
  "_undefined_exception",
  "_undefined_hint",
  "_undefined_message",
  "_undefined_name",
  "_undefined_obj",
]);

function unsafe(type: string, name: string): Undefined {
  return new Undefined(() => `access to attribute '${name}' of '${type}' object is unsafe.`, "SecurityError");
}

/** Methods of str that, on text marked safe, return text marked safe and whose arguments need no escaping. */
const KEEPS_MARKUP = new Set([
  "capitalize",
  "casefold",
  "expandtabs",
  "lower",
  "lstrip",
  "removeprefix",
  "removesuffix",
]);
for (const name of ["rstrip", "strip", "swapcase", "title", "upper", "zfill"]) KEEPS_MARKUP.add(name);
const READS_MARKUP = /^(is.*|count|endswith|find|index|rfind|rindex|startswith)$/;

function markupMethod(value: Markup, name: string): Value | undefined {
  const method = textMethod(value.text, name);
  if (!method || READS_MARKUP.test(name)) return method;
  if (!KEEPS_MARKUP.has(name)) throw new UnsupportedFeature(`the method ${name} of a string marked safe`);
  return new Callable("method", name, (args, kwargs) => new Markup(method.call(args, kwargs) as string));
}

function textMethod(text: string, name: string): Callable | undefined {
  return name === "format" || name === "format_map" ? formatMethod(text, name) : stringMethod(text, name);
}

const access = { getAttribute, getItem };

function formatMethod(text: string, name: string): Callable {
  const call = (args: readonly Value[], kwargs: Kwargs): Value => {
    if (name === "format") return formatBraces(text, args, kwargs, access);
    if (kwargs.size > 0) throw typeError("format_map() takes no keyword arguments");
    const [mapping] = args;
    if (args.length !== 1) throw typeError(`format_map() takes exactly one argument (${args.length} given)`);
    if (!(mapping instanceof Dict)) throw new UnsupportedFeature("str.format_map() of a value that is not a dict");
    const named = new Map<string, Value>();
    for (const [key, value] of mapping.entries()) if (typeof key === "string") named.set(key, value);
    return formatBraces(text, [], named, access);
  };
  return new Callable("function", name, call);
}
