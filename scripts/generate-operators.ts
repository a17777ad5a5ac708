// Writes lib/torch/generated/: TypeScript types and thin functions for PyTorch's public operators, from the
// native_functions.yaml that every torch wheel ships under torchgen/packaged. The binding itself needs none of this: it
// calls any operator through the dispatcher. Run: npx tsx scripts/generate-operators.ts PATH/native_functions.yaml VERSION
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";

interface Entry {
  func: string;
  variants?: string;
  python_module?: string;
}

interface Parameter {
  name: string;
  type: string;
  optional: boolean;
}

interface Signature {
  base: string;
  positional: Parameter[];
  keywords: Parameter[];
  returns: string;
  inPlace: boolean;
  isMethod: boolean;
  isFunction: boolean;
  module: string;
}

// Internal by their names, or without a meaning in this binding.
const skipped =
  /^_|_backward|backward_|_forward$|(?<!index)_copy$|^sym_|^fbgemm|^mkldnn|^miopen|^cudnn|^quantize|^quantized|^fake_quant|^q_|^int_repr|^dequantize|^to_sparse|^to_mkldnn|^to_padded|^nested|^sparse_|^hspmm|^sspaddmm|^rename|^align_|^refine_names|^unflatten_dense|^data$|^is_leaf|^output_nr|^retains_grad|^requires_grad_|^retain_grad|^set_data|^is_(?!floating_point$|complex$|signed$|nonzero$|same_size$|set_to$|conj$|neg$|inference$)|^item$|^size$|^stride$|^to$|^cpu$|^cuda$|^numpy|^resize_as_sparse|^coalesce|^indices$|^values$|^crow_|^col_ind|^row_ind|^ccol_|^record_stream|^can_cast|^promote_types|^result_type|^tensor_split\.tensor|^choose_qparams|^fused_moving|^max_pool.*_with_indices|^rnn_|^gru|^lstm|^segment_|^batch_norm_|^native_|^dense_dim|^sparse_dim|^from_file|^unsafe_|^lift|^grid_sampler_|^slow_conv|^thnn_|^empty_|^new_empty_strided|^set_$|^_/;

const reserved = new Set(["var", "default", "delete", "import", "new", "in", "with", "function"]);

function typeOf(schema: string): string | null {
  let type = schema;
  let nullable = false;
  if (type.endsWith("?")) {
    nullable = true;
    type = type.slice(0, -1);
  }
  type = type.replace(/\([a-z!|>* -]+\)/g, "");
  const list = /^(.+)\[(\d*)\]$/.exec(type);
  const element = list ? list[1] : type;
  const scalars: Record<string, string> = {
    Tensor: "Tensor",
    "Tensor?": "Tensor | null",
    Scalar: "Scalar",
    int: "number",
    SymInt: "number",
    float: "number",
    bool: "boolean",
    SymBool: "boolean",
    str: "string",
    ScalarType: "DTypeLike",
    Device: "string",
    Layout: "Layout",
    MemoryFormat: "MemoryFormat",
    Generator: "Generator",
  };
  const base = scalars[element];
  if (base === undefined) return null;
  let result = base;
  if (list) {
    result = base.includes("|") ? `readonly (${base})[]` : `readonly ${base}[]`;
    if (list[2] !== "" && base === "number") result = `number | ${result}`;
  }
  return nullable ? `${result} | null` : result;
}

const camelCase = (name: string) =>
  name.replace(/(?<=[a-z0-9])_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());

function splitTop(text: string): string[] {
  const parts: string[] = [];
  let depth = 0;
  let part = "";
  for (const char of text) {
    if (char === "(" || char === "[") depth++;
    if (char === ")" || char === "]") depth--;
    if (char === "," && depth === 0) {
      parts.push(part.trim());
      part = "";
    } else part += char;
  }
  if (part.trim() !== "") parts.push(part.trim());
  return parts;
}

/** Several results: an array, whose elements PyTorch gives names, too, where the schema has them. */
function tuple(types: readonly string[], names: readonly (string | undefined)[]): string {
  const known = names.map((name) => (name === undefined ? "" : camelCase(name)));
  if (known.length !== types.length || known.includes("")) return `[${types.join(", ")}]`;
  const fields = (separator: string) => types.map((type, i) => `${known[i]}: ${type}`).join(separator);
  return `[${fields(", ")}] & { ${fields("; ")} }`;
}

function parseEntry(entry: Entry): Signature | null {
  const match = /^([\w]+)(?:\.(\w+))?\((.*)\) -> (.*)$/.exec(entry.func);
  if (!match) return null;
  const [, base, overload = "", args, returns] = match;
  if (skipped.test(base) || /out$|Dimname|dimname|names|source_Storage|Stream/.test(overload)) return null;
  if (/Dimname|Storage|Stream|QScheme|ConstQuantizer/.test(entry.func)) return null;
  const positional: Parameter[] = [];
  const keywords: Parameter[] = [];
  let target = positional;
  for (const part of splitTop(args)) {
    if (part === "*") {
      target = keywords;
      continue;
    }
    const parsed = /^(\S+(?:\([a-z!|>* -]+\))?\S*) (\w+)(?:=(.*))?$/.exec(part);
    if (!parsed) return null;
    const type = typeOf(parsed[1]);
    if (type === null || (target === keywords && parsed[1].includes("!"))) return null; // no out= forms
    target.push({ name: camelCase(parsed[2]), type, optional: parsed[3] !== undefined });
  }
  const results =
    returns.startsWith("(") &&
    returns.endsWith(")") &&
    splitTop(returns.slice(1, -1)).length !== 1 &&
    !/^\(a/.test(returns)
      ? splitTop(returns.slice(1, -1)).map((item) => typeOf(item.replace(/\([a-z!|>* -]+\)/g, "").split(" ")[0]))
      : [typeOf(returns.replace(/\([a-z!|>* -]+\)/g, ""))];
  if (results.some((type) => type === null)) return null;
  const clean = results.map((type) => (type as string).replace(/^readonly /, "").replace("Scalar", "number"));
  const resultNames = splitTop(returns.replace(/^\(|\)$/g, "")).map((item) => / (\w+)$/.exec(item)?.[1]);
  const variants = entry.variants ?? "function";
  return {
    base,
    positional,
    keywords,
    returns: clean.length === 0 ? "void" : clean.length === 1 ? clean[0] : tuple(clean, resultNames),
    inPlace: base.endsWith("_") && returns.includes("!"),
    isMethod: variants.includes("method"),
    isFunction: variants.includes("function"),
    module: entry.python_module ?? "",
  };
}

function signatureText(signature: Signature, asMethod: boolean): string {
  const parameters = asMethod
    ? signature.positional.filter((parameter) => parameter.name !== "self")
    : signature.positional;
  let seenOptional = false;
  const texts = parameters.map((parameter) => {
    const name = reserved.has(parameter.name)
      ? `${parameter.name}_`
      : parameter.name === "self"
        ? "self"
        : parameter.name;
    seenOptional ||=
      parameter.optional && parameters.slice(parameters.indexOf(parameter)).every((later) => later.optional);
    const undefinable = parameter.optional && !seenOptional ? " | undefined" : "";
    return `${name}${seenOptional ? "?" : ""}: ${parameter.type}${undefinable}`;
  });
  if (signature.keywords.length > 0) {
    const required = signature.keywords.some((keyword) => !keyword.optional);
    const fields = signature.keywords
      .map((keyword) => `${keyword.name}${keyword.optional ? "?" : ""}: ${keyword.type}`)
      .join("; ");
    texts.push(`options${required && !seenOptional ? "" : "?"}: { ${fields} }`);
  }
  const returns = asMethod && signature.inPlace && signature.returns === "Tensor" ? "this" : signature.returns;
  return `(${texts.join(", ")}): ${returns}`;
}

const [yamlPath, version, folder = "lib/torch/generated"] = process.argv.slice(2);
if (!yamlPath || !version) {
  console.error("usage: npx tsx scripts/generate-operators.ts PATH/native_functions.yaml TORCH_VERSION [FOLDER]");
  process.exit(2);
}
const signatures = (parse(readFileSync(yamlPath, "utf8")) as Entry[])
  .map(parseEntry)
  .filter((signature): signature is Signature => signature !== null);

const header = `// Generated by scripts/generate-operators.ts from PyTorch ${version}'s native_functions.yaml: do not edit.\n`;
const link = (base: string, method: boolean) =>
  `/** [${method ? "Tensor" : "torch"}.${base}](https://docs.pytorch.org/docs/stable/generated/torch.${method ? "Tensor." : ""}${base}.html) */`;

const handWritten = new Set([
  "tensor",
  "zeros",
  "ones",
  "full",
  "empty",
  "rand",
  "randn",
  "randint",
  "randperm",
  "arange",
  "linspace",
  "eye",
  "zeros_like",
  "ones_like",
  "full_like",
  "rand_like",
  "randn_like",
  "scalar_tensor",
  "index",
  "index_put",
  "index_put_",
  "stft",
  "unique_consecutive",
]);

/** Functions that are written by hand, while the methods are the operator's. */
const handWrittenFunctions = new Set(["where"]);

function grouped(list: Signature[], asMethod: boolean): Map<string, string[]> {
  const groups = new Map<string, string[]>();
  for (const signature of list) {
    const texts = groups.get(signature.base) ?? [];
    const text = signatureText(signature, asMethod);
    if (!texts.includes(text)) texts.push(text);
    groups.set(signature.base, texts);
  }
  return new Map([...groups].sort(([a], [b]) => (a < b ? -1 : 1)));
}

// --- methods
const methods = grouped(
  signatures.filter((s) => s.isMethod && !handWritten.has(s.base)),
  true,
);
let text = `${header}
import type { Generator } from "../generator.js";
import type { DTypeLike } from "../dtype.js";
import type { Tensor } from "../tensor.js";
import type { Layout, MemoryFormat, Scalar } from "../dtype.js";

/** PyTorch's operators as methods of a tensor. */
export interface TensorMethods {
`;
for (const [base, texts] of methods) {
  text += `  ${link(base, true)}\n`;
  for (const signature of texts) text += `  ${camelCase(base)}${signature};\n`;
}
text += `}\n\n/** PyTorch's names of the methods above. */\nexport const methodNames =\n`;
const names = [...methods.keys()];
for (let i = 0; i < names.length; i += 12)
  text += `  ${i > 0 ? '"' : '"'}${names.slice(i, i + 12).join(" ")}${i + 12 < names.length ? ' " +' : '";'}\n`;
writeFileSync(join(folder, "methods.ts"), text);

// --- functions: torch.* with nn's, and the namespaces
const isFree = (s: Signature) =>
  s.isFunction &&
  !handWritten.has(s.base) &&
  !handWrittenFunctions.has(s.base) &&
  (s.module === "" || s.module === "nn") &&
  !s.inPlace;
const functions = grouped(signatures.filter(isFree), false);
text = `${header}
import type { Generator } from "../generator.js";
import type { DTypeLike } from "../dtype.js";
import { operatorFunction } from "../operator.js";
import type { Tensor } from "../tensor.js";
import type { Layout, MemoryFormat, Scalar } from "../dtype.js";

`;
for (const [base, texts] of functions) {
  const name = camelCase(base);
  text += `${link(base, false)}\n`;
  const local = reserved.has(name) ? `${name}_` : name;
  text += `${local === name ? "export " : ""}const ${local}: {\n${texts.map((t) => `  ${t};\n`).join("")}} = operatorFunction("aten::${base}");\n`;
  if (local !== name) text += `export { ${local} as ${name} };\n`;
}
writeFileSync(join(folder, "functions.ts"), text);

for (const module of ["linalg", "fft", "special"]) {
  const list = grouped(
    signatures.filter((s) => s.module === module && s.isFunction && s.base.startsWith(`${module}_`)),
    false,
  );
  text = `${header}
import type { DTypeLike } from "../dtype.js";
import { operatorFunction } from "../operator.js";
import type { Tensor } from "../tensor.js";
import type { Layout, Scalar } from "../dtype.js";

`;
  for (const [base, texts] of list) {
    const name = camelCase(base.slice(module.length + 1));
    text += `/** [torch.${module}.${base.slice(module.length + 1)}](https://docs.pytorch.org/docs/stable/generated/torch.${module}.${base.slice(module.length + 1)}.html) */\n`;
    text += `export const ${name}: {\n${texts.map((t) => `  ${t};\n`).join("")}} = operatorFunction("aten::${base}");\n`;
  }
  for (const type of ["DTypeLike", "Layout", "Scalar"]) {
    if (!new RegExp(`: ${type}\\b|[|<] ?${type}\\b`).test(text.replace(/^import.*$/gm, ""))) {
      text = text
        .replace(new RegExp(`import type \\{ ${type} \\} from .*\\n`), "")
        .replace(`, ${type} }`, " }")
        .replace(`{ ${type}, `, "{ ");
    }
  }
  writeFileSync(join(folder, `${module}.ts`), text);
}
console.log(`${methods.size} methods, ${functions.size} functions`);
