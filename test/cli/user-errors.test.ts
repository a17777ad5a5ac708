import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { diffcoder, expectExplained, scratchFolder } from "./support.js";

const folder = scratchFolder();

/** Trains from files written for this, the first of which is the curriculum. */
async function trained(files: Record<string, string>, env?: NodeJS.ProcessEnv) {
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder.path, name), text);
  return diffcoder(["train", Object.keys(files)[0]], { cwd: folder.path, env });
}

describe("an error in a user's curriculum", () => {
  it("that does not compile names file, line and column", async () => {
    const ended = await trained({ "broken.ts": "// a comment\nexport const curriculum = (;\n" });
    expectExplained(ended, /^error: broken\.ts:2:28: SyntaxError: Unexpected ";"$/m);
  });

  it("thrown while it is loaded names file, line and the error, also of a file that it imports", async () => {
    const text = 'import { far } from "./helper.js";\n\nexport const curriculum = far();\n';
    const helper = 'export function far(): never {\n  throw new RangeError("too far");\n}\n';
    expectExplained(
      await trained({ "loads.ts": text, "helper.ts": helper }),
      /^error: helper\.ts:2:\d+: RangeError: too far$/m,
    );
    const own = "const stages = [\n  1,\n];\nexport const curriculum = missing(stages);\n";
    expectExplained(
      await trained({ "own.ts": own }),
      /^error: own\.ts:4:\d+: ReferenceError: missing is not defined$/m,
    );
  });

  it("that the library finds names the line that asked for it", async () => {
    const text = `import { autoregressive, Curriculum } from "stable-diffcoder";
export const curriculum = new Curriculum([
  autoregressive({ name: "a", lr: 1, steps: 1 } as never),
]);
`;
    expectExplained(await trained({ "options.ts": text }), /data: expected a Dataset.*\n {2}at options\.ts:3:\d+$/m);
  });

  it("that names an export or a file that is not there says which", async () => {
    const missing = 'import { nothing } from "stable-diffcoder";\nexport const curriculum = nothing;\n';
    expectExplained(await trained({ "export.ts": missing }), /error: export\.ts:1: SyntaxError: .*named 'nothing'/);
    const file = 'import { x } from "./absent.js";\nexport const curriculum = x;\n';
    expectExplained(await trained({ "file.ts": file }), /Cannot find module '.*absent\.js' imported from .*file\.ts/);
  });

  it("shows its stack where DIFFCODER_DEBUG is set", async () => {
    const { stderr, code } = await trained({ "debug.ts": 'throw new Error("why");\n' }, { DIFFCODER_DEBUG: "1" });
    expect(stderr).toMatch(/error: Error: why\n {4}at .*debug\.ts:1:\d+/);
    expect(code).toBe(1);
  });
});
