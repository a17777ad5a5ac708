import { native } from "./native.js";
import { Operator } from "./operator.js";

/** An operator called as in PyTorch's `torch.ops`: untyped, with the overload selected by the arguments. */
export type DispatcherFunction = (...args: unknown[]) => unknown;

export type OperatorNamespace = Readonly<Record<string, DispatcherFunction>>;

function namespace(prefix: string): OperatorNamespace {
  const functions = new Map<string, DispatcherFunction>();
  return new Proxy({} as OperatorNamespace, {
    get(_, name) {
      if (typeof name !== "string") return undefined;
      let fn = functions.get(name);
      if (fn === undefined) {
        const operator = new Operator(`${prefix}::${name}`);
        fn = (...args) => operator.call(args);
        functions.set(name, fn);
      }
      return fn;
    },
  });
}

const namespaces = new Map<string, OperatorNamespace>();

/**
 * Every operator of the dispatcher by namespace and name, as PyTorch's `torch.ops`: `ops.aten._foreach_add(list, 1)`,
 * `ops.diffcoder.rms_norm(x, weight, eps)`. Names keep their underscores. Arguments are positional as in the schema; a
 * plain object at the end holds named arguments.
 */
export const ops = new Proxy({} as Readonly<Record<string, OperatorNamespace>>, {
  get(_, name) {
    if (typeof name !== "string") return undefined;
    let found = namespaces.get(name);
    if (found === undefined) {
      found = namespace(name);
      namespaces.set(name, found);
    }
    return found;
  },
});

/** The names of all operators of the loaded libtorch, such as "aten::add". */
export function operatorNames(): string[] {
  return native.operatorNames();
}
