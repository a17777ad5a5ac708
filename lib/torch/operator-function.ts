import { Operator } from "./operator.js";
import { Tensor } from "./tensor.js";

/**
 * A function that calls an operator of the dispatcher, typed by who asks for it.
 * @param only the one overload to call, where PyTorch's own function reaches no other
 */
export function operatorFunction<F extends (...args: never[]) => unknown>(name: string, only?: string): F {
  const operator = new Operator(name, { only });
  const call = (...args: unknown[]) => {
    if (args.length === 2 && args[0] instanceof Tensor && args[1] instanceof Tensor)
      return operator.callBinary(args[0], args[1]);
    if (args.length === 1 && args[0] instanceof Tensor) return operator.callUnary(args[0]);
    return operator.call(args);
  };
  return call as unknown as F;
}
