import { children, type ForNode, type Node } from "./nodes.js";

/** How a variable is initialized when its frame is entered. */
export type Load =
  | { kind: "param" }
  | { kind: "resolve"; name: string }
  | { kind: "alias"; target: string }
  | { kind: "undefined" };

/**
 * Maps names to variables in a frame (a scope of Jinja). A port of jinja2's idtracking, so that assignments in loops,
 * branches and macros have the same scope. Variables are named by level and name.
 */
export class Symbols {
  readonly level: number;
  readonly parent: Symbols | undefined;
  refs = new Map<string, string>();
  loads = new Map<string, Load>();
  stores = new Set<string>();

  constructor(parent?: Symbols) {
    this.parent = parent;
    this.level = parent ? parent.level + 1 : 0;
  }

  copy(): Symbols {
    const copy = new Symbols(this.parent);
    copy.refs = new Map(this.refs);
    copy.loads = new Map(this.loads);
    copy.stores = new Set(this.stores);
    return copy;
  }

  findRef(name: string): string | undefined {
    return this.refs.get(name) ?? this.parent?.findRef(name);
  }

  findLoad(target: string): Load | undefined {
    return this.loads.get(target) ?? this.parent?.findLoad(target);
  }

  /** The variable of a name in the frame; undefined where jinja2's compiler would fail. */
  ref(name: string): string | undefined {
    return this.findRef(name);
  }

  declareParameter(name: string): string {
    this.stores.add(name);
    return this.#define(name, { kind: "param" });
  }

  load(name: string): void {
    if (this.findRef(name) === undefined) this.#define(name, { kind: "resolve", name });
  }

  store(name: string): void {
    this.stores.add(name);
    if (this.refs.has(name)) return;
    const outer = this.parent?.findRef(name);
    this.#define(name, outer === undefined ? { kind: "undefined" } : { kind: "alias", target: outer });
  }

  #define(name: string, load: Load): string {
    const target = `${this.level}_${name}`;
    this.refs.set(name, target);
    this.loads.set(target, load);
    return target;
  }

  /** Merges the assignments of the branches of an if. */
  branchUpdate(branches: readonly Symbols[]): void {
    const stores = new Set(branches.flatMap((branch) => [...branch.stores]));
    for (const name of this.stores) stores.delete(name);
    for (const branch of branches) {
      for (const [name, target] of branch.refs) this.refs.set(name, target);
      for (const [target, load] of branch.loads) this.loads.set(target, load);
      for (const name of branch.stores) this.stores.add(name);
    }
    for (const name of stores) {
      const target = this.findRef(name) as string;
      const outer = this.parent?.findRef(name);
      this.loads.set(target, outer === undefined ? { kind: "resolve", name } : { kind: "alias", target: outer });
    }
  }

  /** All stored names with their variables, inner frames first. */
  storedNames(): Map<string, string> {
    const names = new Map<string, string>();
    for (let frame: Symbols | undefined = this; frame; frame = frame.parent) {
      for (const name of [...frame.stores].sort()) {
        const target = names.has(name) ? undefined : this.findRef(name);
        if (target !== undefined) names.set(name, target);
      }
    }
    return names;
  }

  /** Variables that are parameters of this frame or an enclosing one. */
  parameters(): Set<string> {
    const targets = new Set<string>();
    for (let frame: Symbols | undefined = this; frame; frame = frame.parent) {
      for (const [target, load] of frame.loads) if (load.kind === "param") targets.add(target);
    }
    return targets;
  }

  /** Collects the names in the nodes of a frame. */
  analyze(nodes: readonly Node[]): void {
    const visitor = new SymbolVisitor(this);
    for (const node of nodes) visitor.visit(node, false);
  }

  /** Collects the names in a loop's body, its else part or its condition. */
  analyzeFor(node: ForNode, branch: "body" | "else" | "test"): void {
    const visitor = new SymbolVisitor(this);
    if (branch !== "else") visitor.visit(node.target, true);
    if (branch === "test") {
      if (node.test) visitor.visit(node.test, false);
      return;
    }
    for (const child of branch === "body" ? node.body : node.otherwise) visitor.visit(child, false);
  }
}

class SymbolVisitor {
  #symbols: Symbols;

  constructor(symbols: Symbols) {
    this.#symbols = symbols;
  }

  visit(node: Node, asParameter: boolean): void {
    const symbols = this.#symbols;
    const each = (nodes: readonly Node[]) => {
      for (const child of nodes) this.visit(child, asParameter);
    };
    switch (node.kind) {
      case "Name":
        if (asParameter || node.ctx === "param") symbols.declareParameter(node.name);
        else if (node.ctx === "store") symbols.store(node.name);
        else symbols.load(node.name);
        return;
      case "NSRef":
        symbols.load(node.name);
        return;
      case "If": {
        this.visit(node.test, asParameter);
        const branch = (nodes: readonly Node[]) => {
          this.#symbols = symbols.copy();
          each(nodes);
          return this.#symbols;
        };
        const branches = [branch(node.body), branch(node.elifs), branch(node.otherwise)];
        this.#symbols = symbols;
        symbols.branchUpdate(branches);
        return;
      }
      case "Macro":
        symbols.store(node.name);
        return;
      case "Load":
        each(children(node));
        for (const name of node.stores) symbols.store(name);
        return;
      case "Assign":
        this.visit(node.node, asParameter);
        this.visit(node.target, asParameter);
        return;
      case "For":
        this.visit(node.iter, asParameter);
        return;
      case "CallBlock":
        if (node.call) this.visit(node.call, asParameter);
        return;
      case "FilterBlock":
        this.visit(node.filter, asParameter);
        return;
      case "With":
        each(node.values);
        return;
      case "AssignBlock":
        this.visit(node.target, asParameter);
        return;
      case "Autoescape":
      case "Block":
        return;
      default:
        each(children(node));
    }
  }
}

/** Those of the names that are read in the nodes without being assigned first. */
export function findUndeclared(nodes: readonly Node[], wanted: readonly string[]): Set<string> {
  const names = new Set(wanted);
  const undeclared = new Set<string>();
  const visit = (node: Node): void => {
    if (node.kind === "Name") {
      if (node.ctx === "load" && names.has(node.name)) undeclared.add(node.name);
      else names.delete(node.name);
    } else if (node.kind !== "Block") for (const child of children(node)) visit(child);
  };
  for (const node of nodes) visit(node);
  return undeclared;
}
