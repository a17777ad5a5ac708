import type { Module } from "../../nn/index.js";

/** The modules whose dotted path matches; `*` and `?` stand for characters of one part of it, as in file names. */
export function modulesMatching(root: Module, pattern: string): [path: string, module: Module][] {
  const parts = pattern.split(".").map((part) => {
    const literal = part.replace(/[\\^$+.()|[\]{}]/g, "\\$&");
    return literal.replaceAll("*", "[^.]*").replaceAll("?", "[^.]");
  });
  const expression = new RegExp(`^${parts.join("\\.")}$`);
  return Array.from(root.namedModules()).filter(([path]) => expression.test(path));
}
