import { join } from "node:path";
import ts from "typescript";
import { beforeAll, describe, expect, it } from "vitest";
import packageJson from "../../package.json" with { type: "json" };
import { projectRoot } from "../../scripts/lib/paths.mjs";

/** What a user may import from: "stable-diffcoder", "stable-diffcoder/torch", … */
const entries = Object.entries(packageJson.exports).flatMap(([name, target]) =>
  typeof target === "object" ? [[name, target.types.replace("./dist", "lib").replace(".d.ts", ".ts")] as const] : [],
);

/** By exported name the entry points that have it, each with the place where it is declared. */
const declared = new Map<string, Map<string, string>>();
const rootNames = new Set<string>();

beforeAll(() => {
  const config = ts.readConfigFile(join(projectRoot, "tsconfig.json"), ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent(config.config, ts.sys, projectRoot);
  const paths = entries.map(([, path]) => join(projectRoot, path));
  const program = ts.createProgram(paths, { ...options, noEmit: true });
  const checker = program.getTypeChecker();
  for (const [name, path] of entries) {
    const source = program.getSourceFile(join(projectRoot, path));
    const symbol = source && checker.getSymbolAtLocation(source);
    if (!symbol) throw new Error(`${path} is not a module`);
    for (const exported of checker.getExportsOfModule(symbol)) {
      const origin = exported.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported;
      const places = origin.declarations?.map((node) => `${node.getSourceFile().fileName}:${node.pos}`) ?? [];
      const known = declared.get(exported.name) ?? new Map<string, string>();
      declared.set(exported.name, known.set(name, places.sort().join(" ")));
      if (name === ".") rootNames.add(exported.name);
    }
  }
});

describe("names that users import", () => {
  it("mean the same thing in every entry point", () => {
    const several = [...declared].filter(([, places]) => new Set(places.values()).size > 1);
    expect(several.map(([name, places]) => `${name}: ${[...places.keys()].join(", ")}`)).toEqual([]);
  });

  it("come with their whole family from the root", () => {
    const families = [
      ["staticSchedule", "confidenceThreshold", "confidenceFactor", "entropyBound", "hybridRule"],
      ["clippedLinear", "linearNoise", "cosineNoise", "customNoise"],
      ["constant", "warmupStable", "warmupStableDecay", "cosineDecay", "decayTo", "scaled", "chain"],
      ["autoregressiveObjective", "blockDiffusionObjective", "supervisedObjective"],
      ["bidirectionalObjective", "causalDiffusionObjective", "bidirectionalPlan", "blockDiffusionPlan", "causalPlan"],
      ["autoregressive", "blockDiffusion", "bidirectional", "causalDiffusion", "supervised"],
      ["generateAutoregressive", "generateBlocks", "generateBidirectional"],
    ];
    for (const family of families) expect(family.filter((name) => !rootNames.has(name))).toEqual([]);
  });
});
