import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import ts from "typescript";
import { beforeAll, describe, expect, it } from "vitest";
import { packageCommand } from "../../scripts/lib/vitest.mjs";
import { root, run, scratchFolder } from "./support.js";

// What is published, installed in a project outside the checkout. The packages it depends on are the checkout's own.
const folder = scratchFolder();
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
let files: string[];
let project: string;
let installed: string;

beforeAll(async () => {
  const args = ["pack", "--json", "--ignore-scripts", "--pack-destination", folder.path];
  const packed = await run("npm", args, { env: { npm_config_cache: join(folder.path, "npm") } });
  expect(packed.code, packed.stderr).toBe(0);
  const [{ filename, files: list }] = JSON.parse(packed.stdout);
  files = list.map(({ path }: { path: string }) => path);

  project = join(folder.path, "project");
  const modules = join(project, "node_modules");
  installed = join(modules, "stable-diffcoder");
  mkdirSync(installed, { recursive: true });
  const tar = await run("tar", ["xzf", join(folder.path, filename), "-C", installed, "--strip-components=1"]);
  expect(tar.code, tar.stderr).toBe(0);
  for (const name of [...Object.keys(manifest.dependencies), "@types/node"]) {
    mkdirSync(dirname(join(modules, name)), { recursive: true });
    symlinkSync(join(root, "node_modules", name), join(modules, name), "dir");
  }
  writeFileSync(join(project, "package.json"), '{ "name": "project", "type": "module", "private": true }\n');
});

describe("the published package", () => {
  it("holds what its manifest names, types first", () => {
    const named = Object.values(manifest.exports).flatMap((entry) =>
      typeof entry === "string" ? [entry] : Object.values(entry as Record<string, string>),
    );
    for (const path of [...named, ...Object.values<string>(manifest.bin)]) {
      expect(files).toContain(path.replace("./", ""));
    }
    for (const entry of Object.values(manifest.exports)) {
      if (typeof entry === "object") expect(Object.keys(entry as object)).toEqual(["types", "default"]);
    }
  });

  it("holds what builds the addon and what the commands read, and nothing that only a checkout needs", () => {
    for (const path of [
      "README.md",
      "LICENSE",
      "CMakeLists.txt",
      "native/addon.cc",
      "scripts/setup.mjs",
      "scripts/native-flags.mjs",
      "scripts/lib/setup.mjs",
      "assets/tokenizer/tokenizer.json",
      "assets/report/report.html",
      "docs/training.md",
      "examples/quickstart.ts",
      "dist/cli/main.js",
    ]) {
      expect(files).toContain(path);
    }
    const stray = files.filter((path) =>
      /^(lib|test|bench|build|runs|\.|binding\.gyp)|\.(map|tsbuildinfo)$|stamp\.json$|fixtures/.test(path),
    );
    expect(stray).toEqual([]);
  });

  it("has types for every entry point, without errors of its own", async () => {
    const entries = Object.keys(manifest.exports).filter((entry) => entry !== "./package.json");
    const imports = entries.map((entry, i) => `import * as m${i} from "${entry.replace(".", "stable-diffcoder")}";`);
    const use = `export const all = [${entries.map((_, i) => `m${i}`).join(", ")}];`;
    const typed =
      'import { tensor } from "stable-diffcoder/torch";\nexport const shape: number[] = tensor([1]).shape;\n';
    // The README's program is for a project of one's own, too.
    const [, program] =
      /^## The API in one screen\n[\s\S]*?```ts\n([\s\S]*?)```/m.exec(readFileSync(join(root, "README.md"), "utf8")) ??
      [];
    expect(program).toContain('Tokenizer.fromPretrained("diffcoder/code-4k")');
    writeFileSync(join(project, "program.ts"), program as string);
    writeFileSync(
      join(project, "types.ts"),
      `${imports.join("\n")}\n${use}\n${typed}// @ts-expect-error\ntensor([1]).nothing();\n`,
    );
    const flags =
      "--noEmit --strict --noUncheckedIndexedAccess --target es2022 --module nodenext --moduleResolution nodenext --skipLibCheck false --lib es2023,esnext.disposable --types node";
    const tsc = await run(
      process.execPath,
      [packageCommand("typescript", "tsc"), ...flags.split(" "), "types.ts", "program.ts"],
      {
        cwd: project,
      },
    );
    expect(tsc.stdout).toBe("");
    expect(tsc.code).toBe(0);
  });

  it("shows in editors what each option means, and the metrics of a step", () => {
    const types: Record<string, string[]> = {
      "stable-diffcoder": [
        "BlockDiffusionOptions",
        "AutoregressiveOptions",
        "MaskRatioWarmupOptions",
        "BlockGenerationOptions",
      ],
      "stable-diffcoder/data": ["DataOptionsInput", "SftDataOptionsInput"],
      "stable-diffcoder/parallel": ["ParallelOptions"],
      "stable-diffcoder/train": ["RunOptions", "StageOptions", "RecipeInput", "StepMetrics"],
      "stable-diffcoder/engine": ["EngineOptions", "GenerateOptions", "ScoreOptions"],
      "stable-diffcoder/server": ["ServerOptions"],
    };
    const named = Object.entries(types).flatMap(([entry, names]) => names.map((name) => ({ entry, name })));
    const text = named.map(
      ({ entry, name }, i) => `import type { ${name} as T${i} } from "${entry}";\nexport declare const v${i}: T${i};`,
    );
    const file = join(project, "options.ts");
    writeFileSync(file, text.join("\n"));
    const options = {
      strict: true,
      module: ts.ModuleKind.NodeNext,
      moduleResolution: ts.ModuleResolutionKind.NodeNext,
    };
    const program = ts.createProgram([file], { ...options, noEmit: true, types: [] });
    const checker = program.getTypeChecker();
    const values = checker.getExportsOfModule(
      checker.getSymbolAtLocation(program.getSourceFile(file) as ts.SourceFile) as ts.Symbol,
    );
    const silent = values.flatMap((value) => {
      const fields = checker.getTypeOfSymbol(value).getProperties();
      expect(fields.length, value.name).toBeGreaterThan(0);
      const { name } = named[Number(value.name.slice(1))];
      return fields
        .filter((field) => field.getDocumentationComment(checker).length === 0)
        .map((field) => `${name}.${field.name}`);
    });
    expect(silent).toEqual([]);
  });

  it("runs: tensors, one class of them in all entry points, and the command", async () => {
    const program =
      'import { torch } from "stable-diffcoder";\nimport { Tensor, tensor } from "stable-diffcoder/torch";\n' +
      "const x = tensor([[1, 2], [3, 4]]);\nconsole.log(JSON.stringify(x.matmul(x).tolist()), torch.Tensor === Tensor);\n";
    writeFileSync(join(project, "program.mjs"), program);
    const env = { DIFFCODER_ADDON: join(root, "build", "Release", "diffcoder.node") };
    const ended = await run(process.execPath, ["program.mjs"], { cwd: project, env });
    expect(ended.stdout, ended.stderr).toBe("[[7,10],[15,22]] true\n");
    const command = join(installed, manifest.bin.diffcoder);
    const help = await run(process.execPath, [command, "--help"], { cwd: project });
    expect(help.stdout).toContain("Usage: diffcoder");
    const needed = await run(process.execPath, [command, "generate", "x"], { cwd: project });
    expect(needed.stderr).toContain("npx diffcoder setup"); // npm run setup is the checkout's
    expect(existsSync(join(installed, "build"))).toBe(false);
  });

  it("trains a curriculum file of the project's own", async () => {
    const curriculum = `
import { autoregressive, Curriculum, StableDiffCoder, Tokenizer, prepareData } from "stable-diffcoder";
const tokenizer = Tokenizer.fromPretrained("diffcoder/code-4k");
const data = await prepareData({ paths: ["node_modules/stable-diffcoder/dist/nn"], seqLen: 32 }, tokenizer);
export const curriculum = new Curriculum([autoregressive({ name: "only", data, steps: 1, globalBatchSize: 1, lr: 1e-3 })]);
export const model = StableDiffCoder.fromConfig("tiny", { tokenizer });
`;
    writeFileSync(join(project, "curriculum.ts"), curriculum);
    const env = { DIFFCODER_ADDON: join(root, "build", "Release", "diffcoder.node") };
    const args = [join(installed, manifest.bin.diffcoder), "train", "curriculum.ts"];
    const ended = await run(process.execPath, args, { cwd: project, env });
    expect(ended.code, ended.stderr).toBe(0);
    expect(existsSync(join(project, "runs", "curriculum", "report.html"))).toBe(true);
  });
});
