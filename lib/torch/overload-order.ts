import type { NativeArgument, NativeOverload } from "./native.js";

// The order in which PyTorch's Python argument parser tries the overloads of a function. The first that accepts the
// arguments is called, so the order matters if several accept them. The order is that of PyTorch's code generator: by
// the text of the signatures, then Tensor before Scalar, int before int[] and so on; an out= form is tried together
// with its base form. https://github.com/pytorch/pytorch/blob/v2.13.0/tools/autograd/gen_python_functions.py

type Arguments = readonly NativeArgument[];

/** Whether an argument is an output: a keyword-only argument that the operator writes and that has no default. */
const isOutput = (argument: NativeArgument) => argument.writes && argument.keywordOnly;

const inputs = (overload: NativeOverload) => overload.arguments.filter((argument) => !isOutput(argument));

const takesOut = (overload: NativeOverload) => overload.arguments.some(isOutput);

/** The type in the schema's notation, such as "int[1]?". */
function schemaType({ kind, list, length, optional, elementOptional }: NativeArgument): string {
  const element = elementOptional ? `${kind}?` : kind;
  return `${list ? `${element}[${length ?? ""}]` : element}${optional ? "?" : ""}`;
}

const listTypes: Partial<Record<NativeArgument["kind"], string>> = {
  int: "IntArrayRef",
  float: "ArrayRef<double>",
  Tensor: "TensorList",
  Scalar: "ScalarList",
  bool: "::std::array<bool",
};

const plainTypes: Partial<Record<NativeArgument["kind"], string>> = {
  int: "int64_t",
  float: "double",
  str: "c10::string_view",
  dtype: "ScalarType",
  layout: "Layout",
  device: "Device",
  memory_format: "MemoryFormat",
};

/** The type in the generated C++ signature, by which signatures are sorted. */
function parserType(argument: NativeArgument): string {
  const { kind, list, length, optional, elementOptional } = argument;
  let type = list ? (listTypes[kind] ?? kind) : (plainTypes[kind] ?? kind);
  if (elementOptional) type = "c10::List<::std::optional<Tensor>>";
  else if (list && length !== null) type += `[${length}]`;
  return optional ? `${type}?` : type;
}

function signatureText(overload: NativeOverload, out: NativeOverload | undefined): string {
  const texts: string[] = [];
  let keywords = false;
  const formal = (argument: NativeArgument, hasDefault: boolean) => {
    if (argument.keywordOnly && !keywords) {
      keywords = true;
      texts.push("*");
    }
    const type = parserType(argument);
    const name = argument.name === "self" && (type === "Tensor" || type === "Scalar") ? "input" : argument.name;
    texts.push(`${type} ${name}${hasDefault ? "=" : ""}`);
  };
  for (const argument of inputs(overload)) formal(argument, argument.hasDefault);
  for (const argument of out?.arguments.filter(isOutput) ?? []) formal(argument, true);
  return `(${texts.join(", ")})`;
}

/** Whether the parser tries `b` before `a` if they differ in this argument only. */
function isSmaller(a: string, b: string): boolean {
  return (
    (a === "Scalar" && b === "Tensor") ||
    (a === "Scalar?" && b === "Tensor?") ||
    (a.includes("unsupported") && !b.includes("unsupported")) || // Dimname
    (a === "int[]" && (b === "int" || b === "int?")) ||
    (a === "Tensor[]" && b.includes("[]")) ||
    (a === "int" && b === "Tensor")
  );
}

function comesAfter(a: Arguments, b: Arguments): boolean {
  if (a.length !== b.length) return false;
  let equal = true;
  for (let i = 0; i < a.length; i++) {
    const [one, other] = [schemaType(a[i]), schemaType(b[i])];
    if (one === other) continue;
    if (!isSmaller(one, other)) return false;
    equal = false;
  }
  return !equal;
}

const sameInputs = (a: Arguments, b: Arguments) =>
  a.length === b.length && a.every((one, i) => one.name === b[i].name && schemaType(one) === schemaType(b[i]));

/** The overloads of one operator in the parser's order; out= forms without a Python name come last. */
export function parserOrder(overloads: readonly NativeOverload[]): NativeOverload[] {
  const outs = overloads.filter(takesOut);
  const bases = overloads.filter((overload) => !takesOut(overload));
  const groups = bases.map((base) => {
    const out = outs.find((candidate) => sameInputs(inputs(candidate), base.arguments));
    return { base, out, arguments: base.arguments, text: signatureText(base, out) };
  });
  groups.sort((a, b) => (a.text < b.text ? -1 : a.text > b.text ? 1 : 0));

  // A topological sort in the generator's order: items without predecessors first, then the items that become free.
  const waiting = new Map<number, Set<number>>();
  for (const [i, group] of groups.entries()) {
    const before = new Set<number>();
    for (const [j, other] of groups.entries()) if (comesAfter(group.arguments, other.arguments)) before.add(j);
    if (before.size > 0) waiting.set(i, before);
  }
  const order = [...groups.keys()].filter((i) => !waiting.has(i));
  for (let done = 0; done < order.length; done++) {
    for (const [i, before] of [...waiting].sort(([a], [b]) => a - b)) {
      before.delete(order[done]);
      if (before.size > 0) continue;
      waiting.delete(i);
      order.push(i);
    }
  }
  const sorted = order.flatMap((i) => {
    const { base, out } = groups[i];
    return out === undefined ? [base] : [base, out];
  });
  return [...sorted, ...outs.filter((out) => !sorted.includes(out))];
}
