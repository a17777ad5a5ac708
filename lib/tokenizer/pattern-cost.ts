import { ANY_CHARACTER, type CodePointSet, NO_CHARACTERS } from "./code-points.js";
import { PatternError, type PatternNode } from "./oniguruma.js";

/**
 * The cost of trying a part of a pattern, and all that follows it, if it does not match: never (it always matches),
 * constant, or linear in a run of one class.
 */
type Cost = "never" | "constant" | "run";

interface Tail {
  readonly cost: Cost;
  /** Next characters for which it does not fail immediately. */
  readonly first: CodePointSet;
  /** Classes of the loops that it scans before it fails. */
  readonly loops: readonly CodePointSet[];
}

const END: Tail = { cost: "never", first: ANY_CHARACTER, loops: [] };
const MAX_PATHS = 100;

/**
 * Checks that a backtracking engine finds all matches of a pattern in time linear in the text's length, for every text.
 *
 * @throws PatternError if this is not certain: for nested quantifiers, two loops that can share characters before a
 *   part that can fail, or a loop that can be scanned again from every character
 */
export function checkCost(pattern: PatternNode): void {
  if (paths(pattern) > MAX_PATHS) throw new PatternError(`it can be tried in more than ${MAX_PATHS} ways`);
  const branches = pattern.kind === "choice" ? pattern.branches : [pattern];
  for (const [i, branch] of branches.entries()) {
    const { cost, loops } = tailOf(branch, END);
    if (cost !== "run" || startsOutside(branch, loops) || isSwept(branch, loops, branches.slice(i + 1))) continue;
    throw new PatternError("it can scan the same characters repeatedly");
  }
}

function tailOf(node: PatternNode, tail: Tail): Tail {
  switch (node.kind) {
    case "set":
      return { ...tail, cost: tail.cost === "never" ? "constant" : tail.cost, first: node.set };
    case "sequence":
      return node.items.reduceRight((rest, item) => tailOf(item, rest), tail);
    case "choice":
      return either(node.branches.map((branch) => tailOf(branch, tail)));
    case "edge":
      return { ...tail, cost: tail.cost === "never" ? "constant" : tail.cost };
    case "look":
      if (hasLoop(node.item)) throw new PatternError("a loop within look-around");
      return { ...tail, cost: tail.cost === "never" ? "constant" : tail.cost };
    case "repeat":
      return node.max === Number.POSITIVE_INFINITY ? loopOf(node, tail) : countOf(node, tail);
  }
}

function loopOf(node: PatternNode & { kind: "repeat" }, tail: Tail): Tail {
  if (node.item.kind !== "set") throw new PatternError("a loop over more than one character");
  const { set } = node.item;
  const isOptional = node.min === 0;
  const first = isOptional ? set.or(tail.first) : set;
  if (tail.cost === "never") return { cost: isOptional ? "never" : "constant", first, loops: [] };
  // The tail is tried at each position to which the loop backtracks, and must fail there immediately.
  if (tail.cost === "run" && !set.and(tail.first).isEmpty) throw new PatternError("two loops that share characters");
  return { cost: "run", first, loops: [...tail.loops, set] };
}

function countOf(node: PatternNode & { kind: "repeat" }, tail: Tail): Tail {
  const { item, min, max, mode } = node;
  if (item.kind !== "set" && max > 8) throw new PatternError("a group that repeats more than 8 times");
  if (item.kind !== "set" && mode === "possessive") throw new PatternError("a possessive group");
  if (item.kind === "set") {
    if (min > 0) return { ...tail, cost: tail.cost === "never" ? "constant" : tail.cost, first: item.set };
    return { ...tail, first: item.set.or(tail.first) };
  }
  let rest = tail;
  for (let i = min; i < max; i++) rest = either([tailOf(item, rest), tail]);
  for (let i = 0; i < min; i++) rest = tailOf(item, rest);
  return rest;
}

function either(tails: readonly Tail[]): Tail {
  const costs = tails.map((tail) => tail.cost);
  let cost: Cost = "constant";
  if (costs.includes("run")) cost = "run";
  else if (costs.includes("never")) cost = "never";
  return {
    cost,
    first: tails.reduce((all, tail) => all.or(tail.first), NO_CHARACTERS),
    loops: tails.flatMap((tail) => tail.loops),
  };
}

/** Whether no second attempt can start within a run that the first attempt scanned. */
function startsOutside(branch: PatternNode, loops: readonly CodePointSet[]): boolean {
  const start = branch.kind === "sequence" ? branch.items[0] : branch;
  const isSure = start.kind === "set" || (start.kind === "repeat" && start.item.kind === "set" && start.min > 0);
  if (!isSure || (start.kind === "repeat" && start.max === Number.POSITIVE_INFINITY)) return false;
  const { first } = tailOf(start, END);
  return loops.every((loop) => loop.and(first).isEmpty);
}

/**
 * Whether a branch that scans a run and then fails, such as `\s* `, is tried only once per run: a later branch must
 * match the whole run, as `\s+` does, or all but its end, as `\s+(?!\S)` does, and no branch in between may match less.
 */
function isSwept(branch: PatternNode, loops: readonly CodePointSet[], later: readonly PatternNode[]): boolean {
  const lead = leadOf(branch);
  if (!lead || !loops.every((loop) => loop.isWithin(lead.set))) return false;
  for (const next of later) {
    const sweep = leadOf(next);
    const takes = sweep && lead.set.isWithin(sweep.set) && sweep.isGreedy && lead.before.isWithin(sweep.before);
    if (takes && sweep.rest.every((item) => tailOf(item, END).cost === "never")) return true;
    const [look] = sweep?.rest ?? [];
    const isAllButLast =
      takes &&
      sweep.rest.length === 1 &&
      look.kind === "look" &&
      look.ahead &&
      look.negative &&
      look.item.kind === "set" &&
      look.item.set.and(lead.set).isEmpty;
    if (!isAllButLast && !tailOf(next, END).first.and(lead.set.or(lead.before)).isEmpty) return false;
  }
  return false;
}

/** An optional character, a loop, and the rest; undefined if a branch does not start this way. */
function leadOf(branch: PatternNode) {
  const items = branch.kind === "sequence" ? branch.items : [branch];
  const [head] = items;
  const isOptional = head?.kind === "repeat" && head.max === 1 && head.min === 0 && head.item.kind === "set";
  const before = isOptional && head.item.kind === "set" ? head.item.set : NO_CHARACTERS;
  const loop = items[isOptional ? 1 : 0];
  if (loop?.kind !== "repeat" || loop.max !== Number.POSITIVE_INFINITY || loop.item.kind !== "set") return undefined;
  // A run that is too short for it is short enough to be scanned again.
  const isGreedy = loop.mode !== "lazy" && loop.min <= 8;
  return { before, set: loop.item.set, isGreedy, rest: items.slice(isOptional ? 2 : 1) };
}

function hasLoop(node: PatternNode): boolean {
  if (node.kind === "sequence") return node.items.some(hasLoop);
  if (node.kind === "choice") return node.branches.some(hasLoop);
  if (node.kind === "repeat") return node.max === Number.POSITIVE_INFINITY || hasLoop(node.item);
  return node.kind === "look" && hasLoop(node.item);
}

/** The number of ways in which a part can be tried, without loops over one character. */
function paths(node: PatternNode): number {
  switch (node.kind) {
    case "set":
    case "edge":
      return 1;
    case "look":
      return paths(node.item);
    case "sequence":
      return node.items.reduce((product, item) => product * paths(item), 1);
    case "choice":
      return node.branches.reduce((sum, branch) => sum + paths(branch), 0);
    case "repeat": {
      if (node.max === Number.POSITIVE_INFINITY) return 1;
      if (node.item.kind === "set") return node.max - node.min + 1;
      const one = paths(node.item);
      let all = 0;
      for (let i = node.min; i <= node.max; i++) all += one ** i;
      return all;
    }
  }
}
