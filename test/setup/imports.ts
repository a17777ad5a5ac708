import { readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { projectRoot } from "../../scripts/lib/paths.mjs";

/** The project's files that a file imports; with `types` also those of which it imports types only. */
export function importsOf(file: string, { types = false } = {}): string[] {
  const text = readFileSync(join(projectRoot, file), "utf8");
  const statement = types
    ? /^(?:import|export)\s(?:[^;]*?\sfrom\s)?"(\.[^"]+)";/gm
    : /^(?:import|export)\s(?!type\s)(?:[^;]*?\sfrom\s)?"(\.[^"]+)";/gm;
  const named = [...text.matchAll(statement)].map(([, path]) => path);
  const dynamic = [...text.matchAll(/\bimport\("(\.[^"]+)"\)/g)].map(([, path]) => path);
  return [...named, ...dynamic].map((path) =>
    relative(projectRoot, join(projectRoot, dirname(file), path.replace(/\.js$/, ".ts"))),
  );
}
