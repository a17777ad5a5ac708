import { method } from "./calls.js";
import { PyError, typeError, UnsupportedFeature } from "./errors.js";
import { fromKeys, makeDict } from "./methods.js";
import { Namespace } from "./runtime.js";
import { Range } from "./sequences.js";
import { strftime } from "./strftime.js";
import { str } from "./text.js";
import { Callable, type Kwargs, PyObject, Tuple, textOf, typeName, type Value } from "./values.js";

const OWN_CLASS = "transformers.utils.chat_template_utils._cached_compile_jinja_template.<locals>";

/**
 * The functions that a chat template can call: those of jinja2 and of transformers.
 *
 * @param now the time that strftime_now() formats
 */
export function makeGlobals(now: () => Date): Map<string, Value> {
  const raise = (args: readonly Value[], kwargs: Kwargs): Value => {
    const message = args[0] ?? kwargs.get("message");
    if (args.length + kwargs.size !== 1 || message === undefined)
      throw typeError("raise_exception() takes one argument");
    throw new PyError("TemplateError", str(message));
  };
  const strftimeNow = (args: readonly Value[], kwargs: Kwargs): Value => {
    const format = args[0] ?? kwargs.get("format");
    if (args.length + kwargs.size !== 1 || format === undefined) throw typeError("strftime_now() takes one argument");
    const text = textOf(format);
    if (text === undefined) throw typeError(`strftime() argument 1 must be str, not ${typeName(format)}`);
    return strftime(text, now());
  };
  return new Map<string, Value>([
    ["range", callable("range", (args, kwargs) => Range.of(...noKwargs("range", args, kwargs)))],
    ["dict", new DictClass()],
    ["namespace", classOf(`${OWN_CLASS}.TemplateNamespace`, (args, kwargs) => new Namespace(args, kwargs))],
    ["cycler", classOf("jinja2.utils.Cycler", (args, kwargs) => new Cycler(noKwargs("Cycler", args, kwargs)))],
    ["joiner", classOf("jinja2.utils.Joiner", (args, kwargs) => new Joiner(args[0] ?? kwargs.get("sep") ?? ", "))],
    ["raise_exception", callable("raise_exception", raise)],
    ["strftime_now", callable("strftime_now", strftimeNow)],
    [
      "lipsum",
      callable("lipsum", () => {
        throw new UnsupportedFeature("the function lipsum");
      }),
    ],
  ]);
}

function callable(name: string, call: (args: readonly Value[], kwargs: Kwargs) => Value): Callable {
  return new Callable("function", name, call);
}

function classOf(name: string, call: (args: readonly Value[], kwargs: Kwargs) => Value): Callable {
  return new Callable("type", name, call, `<class '${name}'>`);
}

function noKwargs(name: string, args: readonly Value[], kwargs: Kwargs): readonly Value[] {
  if (kwargs.size > 0) throw typeError(`${name}() takes no keyword arguments`);
  return args;
}

/** The class dict, which can be called. */
class DictClass extends PyObject {
  readonly typeName = "TemplateDict";
  override readonly call = makeDict;

  override attribute(name: string): Value | undefined {
    if (name !== "fromkeys") return undefined;
    return method(name, "/ iterable value?", (keys, value) => fromKeys(keys ?? null, value ?? null));
  }
}

/** jinja2's cycler: returns its values in turn. */
class Cycler extends PyObject {
  readonly typeName = "Cycler";
  #at = 0;

  constructor(readonly items: readonly Value[]) {
    super();
    if (items.length === 0) throw new PyError("RuntimeError", "at least one item has to be provided");
  }

  override attribute(name: string): Value | undefined {
    switch (name) {
      case "items":
        return new Tuple(this.items);
      case "pos":
        return BigInt(this.#at);
      case "current":
        return this.items[this.#at];
      case "next":
        return new Callable("method", name, () => {
          const current = this.items[this.#at];
          this.#at = (this.#at + 1) % this.items.length;
          return current;
        });
      case "reset":
        return new Callable("method", name, () => {
          this.#at = 0;
          return null;
        });
      default:
        return undefined;
    }
  }
}

/** jinja2's joiner: a separator that is empty the first time. */
class Joiner extends PyObject {
  readonly typeName = "Joiner";
  #isUsed = false;
  override readonly call: () => Value;

  constructor(readonly separator: Value) {
    super();
    this.call = () => {
      const isFirst = !this.#isUsed;
      this.#isUsed = true;
      return isFirst ? "" : this.separator;
    };
  }

  override attribute(name: string): Value | undefined {
    if (name === "sep") return this.separator;
    return name === "used" ? this.#isUsed : undefined;
  }
}
