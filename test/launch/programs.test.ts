import { availableParallelism } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { launch, programFolder } from "./support.js";

const folder = programFolder();

describe("a TypeScript file", () => {
  it("is a program of this library in each process, with its arguments", async () => {
    folder.file("later.ts", "export const later: string = 'later';");
    const file = folder.file(
      "program.ts",
      `import { basename } from "node:path";
       import { Decoder } from "stable-diffcoder";
       import * as torch from "stable-diffcoder/torch";
       interface Sum { value: number }
       const sum: Sum = { value: torch.tensor([1, 2, 3]).sum().item() };
       const { RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR } = process.env;
       const [runtime, program, ...args] = process.argv;
       console.log(RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, typeof Decoder, sum.value, runtime === process.execPath, basename(program), args);
       setTimeout(async () => console.log((await import("./later.js")).later), 50); // after the import of this file`,
    );
    const { code, stdout, stderr } = await launch(["--nproc", "2", file, "--lr", "3e-4", "--nproc", "7"]);
    expect(code, stderr).toBe(0);
    for (const rank of [0, 1]) {
      const seen = `${rank} 2 ${rank} 127.0.0.1 function 6 true program.ts [ '--lr', '3e-4', '--nproc', '7' ]`;
      expect(stdout).toContain(`[${rank}] ${seen}\n`);
      expect(stdout).toContain(`[${rank}] later\n`);
    }
  });

  it("shows file and line of its errors in each process", async () => {
    const file = folder.file(
      "broken.ts",
      `interface Wide { readonly a: number; readonly b: string }

function fail(wide: Wide): never {
  throw new TypeError(\`no \${wide.b}\`);
}
await new Promise((resolve) => setTimeout(resolve, 300)); // all are to come so far
fail({ a: 1, b: "luck" });
`,
    );
    const { code, stderr } = await launch(["--nproc", "2", file]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^\[\d\] TypeError: no luck$/m);
    expect(stderr).toContain(`${file}:4:9)`);
    expect(stderr).toContain(`${file}:7:1`);
    expect(stderr).toMatch(/rank \d failed first: exit code 1/);
    const syntax = await launch([folder.file("syntax.ts", "const a = 1;\nconst b = ;\n")]);
    expect(syntax.stderr).toMatch(/syntax\.ts:2:10: ERROR: Unexpected ";"/);
    expect(syntax.code).toBe(1);
  });

  it("may be JavaScript, and set its own exit code", async () => {
    const file = folder.file("plain.cjs", "console.log(require('node:path').sep); process.exitCode = 4;");
    const { code, lines } = await launch([file]);
    expect([code, lines]).toEqual([4, ["[0] /"]]);
  });

  it("that only exports a curriculum is pointed to the command that trains it", async () => {
    const file = folder.file("exports.ts", "export const curriculum = { stages: [] };");
    const { code, stderr } = await launch(["--nproc", "2", file]);
    expect(code).toBe(0);
    expect(
      stderr.match(/^\[0\] warning: .*exports\.ts only exports a curriculum.* -- npx diffcoder train /gm),
    ).toHaveLength(1);
  });
});

describe("other programs", () => {
  it("a YAML curriculum is trained by each process", async () => {
    const file = folder.file("curriculum.yaml", "stages: 7\n");
    const { code, stderr } = await launch(["--nproc", "2", file, "--output-dir", join(folder.path, "run")]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^\[\d\] error: .*curriculum\.yaml:\n\[\d\] .*\n\[\d\] {3}stages: expected array/m);
  });

  it("npx diffcoder is this command line, without npx", async () => {
    for (const words of [["npx", "diffcoder"], ["diffcoder"]]) {
      const { code, stdout } = await launch(["--", ...words, "--version"], { env: { PATH: "/nowhere" } });
      expect([code, stdout]).toEqual([0, expect.stringMatching(/^\[0\] \d+\.\d+\.\d+\n$/)]);
    }
  });

  it.each([
    [["missing.ts"], /^error: missing\.ts: no such file\n$/],
    [["."], /^error: \.: expected a \.ts, \.js or \.yaml file\. For another program use --/],
    [["program.py"], /^error: program\.py: expected a \.ts/],
    [[], /missing required argument 'file'/],
    [["--"], /missing required argument 'file'/],
    [["--nproc", "0", "x.ts"], /option '--nproc <n>' argument '0' is invalid/],
    [["--nnodes", "2", "--", "true"], /^error: 2 machines: set --node-rank/],
  ])("are none: %j", async (words, message) => {
    const { code, stdout, stderr } = await launch(words);
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/\n {4}at /);
    expect([code, stdout]).toEqual([1, ""]);
  });
});

describe("threads", () => {
  const threads = ["--", process.execPath, "-p", "process.env.OMP_NUM_THREADS"];

  it("are divided among the processes, which is said once", async () => {
    const { lines, stderr } = await launch(["--nproc", "2", ...threads], { env: { OMP_NUM_THREADS: undefined } });
    const share = Math.max(1, Math.floor(availableParallelism() / 2));
    expect(lines.sort()).toEqual([`[0] ${share}`, `[1] ${share}`]);
    expect(stderr.match(/OMP_NUM_THREADS/g)).toHaveLength(1);
  });

  it("are the user's where they are set", async () => {
    const { lines, stderr } = await launch(["--nproc", "2", ...threads], { env: { OMP_NUM_THREADS: "3" } });
    expect([lines.sort(), stderr]).toEqual([["[0] 3", "[1] 3"], ""]);
  });
});
