import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import { beforeAll, describe, expect, it } from "vitest";
import {
  checkpointCommand,
  doctorCommand,
  evalCommand,
  generateCommand,
  launchCommand,
  quickstartCommand,
  reportCommand,
  serveCommand,
  setupCommand,
  trainCommand,
  watchCommand,
} from "../../lib/cli/commands.js";
import { parseRecipe } from "../../lib/train/index.js";
import { packageCommand } from "../../scripts/lib/vitest.mjs";
import { root, run, scratchFolder, smallCheckpoint, someCode, TOKENIZER } from "../cli/support.js";
import { type Block, blocksOf, documents } from "./markdown.js";

// Every block of every document is run or checked, by its language and the comment before it:
//   ts: type-checked, and with <!-- run --> run, too; what is not run says <!-- checked -->
//   sh: programs, commands and options exist        yaml: <!-- recipe -->, parsed        json, jsonl: parsed
//   python: parsed
//   text: a picture or a program's output
const blocks = documents.flatMap(blocksOf);
const of = (...languages: string[]) => blocks.filter(({ language }) => languages.includes(language));
const nameOf = ({ document, line }: Block) => `${document.replace(/\W/g, "-")}-${line}.mts`;
const folder = scratchFolder();

beforeAll(async () => {
  for (const block of of("ts")) writeFileSync(join(folder.path, nameOf(block)), block.text);
});

describe("code in the documents", () => {
  it("is all of a kind that is checked here", () => {
    const known: Record<string, readonly string[]> = {
      ts: ["run", "checked"],
      sh: [""],
      yaml: ["recipe"],
      json: [""],
      jsonl: [""],
      python: [""],
      text: ["", "quickstart output"],
    };
    const strange = blocks.filter(({ language, mark }) => !known[language]?.includes(mark));
    expect(strange.map(({ document, line, language, mark }) => `${document}:${line}: ${language} (${mark})`)).toEqual(
      [],
    );
    expect(of("ts").filter(({ mark }) => mark === "run").length).toBeGreaterThan(3);
  });

  it("has right types in TypeScript", async () => {
    const { compilerOptions } = JSON.parse(readFileSync(join(root, "tsconfig.json"), "utf8"));
    const config = {
      extends: join(root, "tsconfig.json"),
      compilerOptions: {
        paths: Object.fromEntries(
          Object.entries<string[]>(compilerOptions.paths).map(([name, [path]]) => [name, [join(root, path)]]),
        ),
        typeRoots: [join(root, "node_modules", "@types")],
        noUnusedLocals: false,
      },
      include: ["*.mts"],
    };
    writeFileSync(join(folder.path, "tsconfig.json"), JSON.stringify(config));
    const checked = await run(process.execPath, [packageCommand("typescript", "tsc"), "-p", folder.path]);
    expect(checked.stdout).toBe("");
    expect(checked.code).toBe(0);
  });

  it("runs in TypeScript, where it says so", async () => {
    const place = join(folder.path, "place");
    mkdirSync(join(place, "assets"), { recursive: true });
    symlinkSync(TOKENIZER, join(place, "assets", "tokenizer"), "dir");
    someCode(place);
    cpSync(join(place, "code"), join(place, "src"), { recursive: true });
    await smallCheckpoint(join(place, "runs", "quickstart", "checkpoints", "final"));
    const programs = of("ts").filter(({ mark }) => mark === "run");
    const files = programs.map((block) => {
      const file = join(folder.path, `run-${nameOf(block)}`);
      const short = block.text
        .replaceAll(/\bsteps: \d+\b/g, "steps: 2")
        .replaceAll('outputDir: "runs/mine"', `outputDir: "runs/${block.line}"`);
      writeFileSync(file, short);
      return file;
    });
    const runner = join(folder.path, "runner.mts");
    writeFileSync(
      runner,
      files.map((file) => `await import(${JSON.stringify(file)});\nconsole.log("ran ${file}");`).join("\n"),
    );
    const tsx = join(root, "node_modules", "tsx", "dist", "cli.mjs");
    const args = [tsx, "--tsconfig", join(root, "tsconfig.json"), runner];
    const ended = await run(process.execPath, args, { cwd: place });
    expect(ended.code, `${ended.stdout}\n${ended.stderr}`).toBe(0);
    for (const file of files) expect(ended.stdout).toContain(`ran ${file}`);
  });

  it.each(of("yaml"))("is a recipe in $document:$line", ({ text, document }) => {
    expect(parseRecipe(text, document).stages.length).toBeGreaterThan(0);
  });

  it.each(of("json", "jsonl"))("is JSON in $document:$line", ({ language, text }) => {
    for (const part of language === "jsonl" ? text.split("\n") : [text]) expect(() => JSON.parse(part)).not.toThrow();
  });

  it.each(of("python"))("is Python in $document:$line", ({ text }) => {
    const parsed = spawnSync("python3", ["-c", "import ast, sys; ast.parse(sys.stdin.read())"], { input: text });
    expect(String(parsed.stderr)).toBe("");
  });

  it.each(of("sh").flatMap(linesOf))("exists: $line ($document)", ({ line }) => {
    expect(problemOf(line)).toBeUndefined();
  });
});

/** The command lines of a shell block, without comments. */
function linesOf({ document, text }: Block): { document: string; line: string }[] {
  const joined = text.replaceAll(/\\\n\s*/g, " ").split("\n");
  const lines = joined.map((line) => line.replace(/(^| )# .*$/, "").trim());
  return lines.filter((line) => line !== "").map((line) => ({ document, line }));
}

const { scripts } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
/** Programs that are not ours: a word here is a decision that a document may speak of it. */
const OTHERS = [
  "printf",
  "python3",
  "gdb",
  "pip",
  "git",
  "cd",
  "source",
  "perf",
  "torchrun",
  "sbatch",
  "srun",
  "kubectl",
  "curl",
  "hf",
  "vllm",
  "lm_eval",
  "evalplus.evaluate",
];
const PACKAGE_COMMANDS = ["vitest", "tsx", "tsc", "cmake-js", "node-gyp"];

/** What is wrong with a command line; undefined if it could be typed as it is. */
function problemOf(line: string): string | undefined {
  for (const part of line.split(/\s*(?:&&|\|)\s*/)) {
    const words = [...part.matchAll(/(?:"[^"]*"|'[^']*'|\$\([^)]*\)|[^\s"'])+/g)].map(([word]) =>
      /["']/.test(word) && !word.includes("=") ? word.replaceAll(/["']/g, "") : word,
    );
    while (/^[A-Z_]+=/.test(words[0] ?? "")) words.shift();
    const problem = problemOfWords(words);
    if (problem !== undefined) return problem;
  }
  return undefined;
}

function problemOfWords([program, ...words]: string[]): string | undefined {
  if (program === "setsid") return problemOfWords(words);
  if (program === "npm") return problemOfNpm(words);
  if (program === "npx" && words[0] === "diffcoder") return problemOfDiffcoder(words.slice(1));
  if (program === "npx" && PACKAGE_COMMANDS.includes(words[0])) return missingFile(words.slice(1));
  if (program === "sbatch" || program === "kubectl") return missingFile(words);
  return OTHERS.includes(program) ? undefined : `nothing is known of ${program}`;
}

function problemOfNpm([verb, ...words]: string[]): string | undefined {
  const after = words.slice(words.indexOf("--") + 1);
  const rest = words.includes("--") ? after : [];
  if (verb === "start") return problemOfDiffcoder(["quickstart", ...rest]);
  if (verb === "test") return missingFile(rest);
  if (verb === "install") return undefined;
  if (verb !== "run") return `npm ${verb}?`;
  if (scripts[words[0]] === undefined) return `npm run ${words[0]}: no such script`;
  if (words[0] !== "bench") return undefined;
  const names = rest.slice(0, rest.findIndex((word) => word.startsWith("-")) >>> 0);
  return names.find((name) => !existsSync(join(root, "bench", `${name}.ts`)));
}

/** The first word that names a file of the checkout which is not there. */
function missingFile(words: string[]): string | undefined {
  return words.find((word) => /^(test|examples|lib|bench|scripts)\//.test(word) && !existsSync(join(root, word)));
}

const COMMANDS: Record<string, () => Command> = {
  quickstart: quickstartCommand,
  train: trainCommand,
  launch: launchCommand,
  generate: generateCommand,
  serve: serveCommand,
  eval: evalCommand,
  checkpoint: checkpointCommand,
  doctor: doctorCommand,
  setup: setupCommand,
  watch: watchCommand,
  report: reportCommand,
};

/** Parses a command line by the command's own definition, without running it. */
function problemOfDiffcoder([name, ...words]: string[]): string | undefined {
  const make = COMMANDS[name];
  if (make === undefined) return `diffcoder ${name}: no such command`;
  if (words.includes("--help") || name === "setup") return undefined;
  let problem = missingFile(words);
  const silent = { writeErr: () => {}, writeOut: () => {} };
  const command = make();
  for (const each of [command, ...command.commands]) {
    each
      .exitOverride()
      .configureOutput(silent)
      .action(() => {});
  }
  try {
    command.parse(words, { from: "user" });
  } catch (error) {
    problem = (error as Error).message;
  }
  return problem;
}
