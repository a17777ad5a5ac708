/** The syntax tree, with the names of jinja2's nodes. */
export type Expr =
  | Name
  | { kind: "NSRef"; line: number; name: string; attr: string }
  | { kind: "Const"; line: number; value: null | boolean | bigint | number | string }
  | { kind: "TemplateData"; line: number; data: string }
  | TupleNode
  | { kind: "List"; line: number; items: Expr[] }
  | { kind: "Dict"; line: number; items: { key: Expr; value: Expr }[] }
  | { kind: "CondExpr"; line: number; test: Expr; then: Expr; otherwise: Expr | undefined }
  | FilterNode
  | ({ kind: "Test"; line: number; node: Expr; name: string } & Arguments)
  | CallNode
  | { kind: "Getitem"; line: number; node: Expr; arg: Expr }
  | { kind: "Getattr"; line: number; node: Expr; attr: string }
  | { kind: "Slice"; line: number; start: Expr | undefined; stop: Expr | undefined; step: Expr | undefined }
  | { kind: "Concat"; line: number; nodes: Expr[] }
  | { kind: "Compare"; line: number; expr: Expr; ops: { op: ComparisonName; expr: Expr }[] }
  | { kind: "Binary"; line: number; op: "+" | "-" | "*" | "/" | "//" | "%" | "**"; left: Expr; right: Expr }
  | { kind: "And" | "Or"; line: number; left: Expr; right: Expr }
  | { kind: "Not"; line: number; node: Expr }
  | { kind: "Unary"; line: number; op: "+" | "-"; node: Expr };

export type ComparisonName = "eq" | "ne" | "lt" | "lteq" | "gt" | "gteq" | "in" | "notin";
export type Context = "load" | "store" | "param";

export interface Name {
  kind: "Name";
  line: number;
  name: string;
  ctx: Context;
}

export interface TupleNode {
  kind: "Tuple";
  line: number;
  items: Expr[];
}

export interface Arguments {
  args: Expr[];
  kwargs: { key: string; value: Expr }[];
  dynArgs: Expr | undefined;
  dynKwargs: Expr | undefined;
}

/** `node` is undefined in a filter block, whose text is the filter's value. */
export interface FilterNode extends Arguments {
  kind: "Filter";
  line: number;
  node: Expr | undefined;
  name: string;
}

export interface CallNode extends Arguments {
  kind: "Call";
  line: number;
  node: Expr;
}

export type Stmt =
  | { kind: "Output"; line: number; nodes: Expr[] }
  | ForNode
  | IfNode
  | MacroNode
  | CallBlockNode
  | { kind: "FilterBlock"; line: number; body: Stmt[]; filter: FilterNode }
  | { kind: "With"; line: number; targets: Expr[]; values: Expr[]; body: Stmt[] }
  | BlockNode
  | { kind: "Load"; line: number; tag: "include" | "import" | "from" | "extends"; template: Expr; stores: string[] }
  | { kind: "Assign"; line: number; target: Expr; node: Expr }
  | { kind: "AssignBlock"; line: number; target: Expr; filter: FilterNode | undefined; body: Stmt[] }
  | { kind: "Autoescape"; line: number; value: Expr; body: Stmt[] }
  | { kind: "Break" | "Continue"; line: number };

export interface ForNode {
  kind: "For";
  line: number;
  target: Expr;
  iter: Expr;
  body: Stmt[];
  otherwise: Stmt[];
  test: Expr | undefined;
  recursive: boolean;
}

export interface IfNode {
  kind: "If";
  line: number;
  test: Expr;
  body: Stmt[];
  elifs: IfNode[];
  otherwise: Stmt[];
}

export interface MacroNode {
  kind: "Macro";
  line: number;
  name: string;
  args: Name[];
  defaults: Expr[];
  body: Stmt[];
}

/** `call` is undefined for the tag `generation`, whose text is an answer of the assistant. */
export interface CallBlockNode {
  kind: "CallBlock";
  line: number;
  call: CallNode | undefined;
  args: Name[];
  defaults: Expr[];
  body: Stmt[];
}

export interface BlockNode {
  kind: "Block";
  line: number;
  name: string;
  body: Stmt[];
  scoped: boolean;
  required: boolean;
}

export type Node = Expr | Stmt;

/** A node's children in the order of jinja2's fields, which is that of its visitors. */
export function children(node: Node): Node[] {
  switch (node.kind) {
    case "Tuple":
    case "List":
      return node.items;
    case "Dict":
      return node.items.flatMap(({ key, value }) => [key, value]);
    case "CondExpr":
      return some(node.test, node.then, node.otherwise);
    case "Filter":
    case "Test":
    case "Call":
      return some(node.node, ...node.args, ...node.kwargs.map(({ value }) => value), node.dynArgs, node.dynKwargs);
    case "Getitem":
      return [node.node, node.arg];
    case "Getattr":
    case "Not":
    case "Unary":
      return [node.node];
    case "Slice":
      return some(node.start, node.stop, node.step);
    case "Concat":
    case "Output":
      return node.nodes;
    case "Compare":
      return [node.expr, ...node.ops.map(({ expr }) => expr)];
    case "Binary":
    case "And":
    case "Or":
      return [node.left, node.right];
    case "For":
      return some(node.target, node.iter, ...node.body, ...node.otherwise, node.test);
    case "If":
      return [node.test, ...node.body, ...node.elifs, ...node.otherwise];
    case "Macro":
      return [...node.args, ...node.defaults, ...node.body];
    case "CallBlock":
      return some(node.call, ...node.args, ...node.defaults, ...node.body);
    case "FilterBlock":
      return [...node.body, node.filter];
    case "With":
      return [...node.targets, ...node.values, ...node.body];
    case "Block":
      return node.body;
    case "Load":
      return [node.template];
    case "Assign":
      return [node.target, node.node];
    case "AssignBlock":
      return some(node.target, node.filter, ...node.body);
    case "Autoescape":
      return [node.value, ...node.body];
    default:
      return [];
  }
}

function some(...nodes: (Node | undefined)[]): Node[] {
  return nodes.filter((node) => node !== undefined);
}

/** All nodes below one. */
export function* descendants(node: Node): IterableIterator<Node> {
  for (const child of children(node)) {
    yield child;
    yield* descendants(child);
  }
}
