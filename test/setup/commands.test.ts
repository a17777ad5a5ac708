import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, realpathSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { exitCodeOf, finalLine, sum, tallyCheck, tallyVitest } from "../../scripts/lib/tally.mjs";
import {
  cleanEnvironment,
  pretendBuilt,
  put,
  runScript,
  scratchCheckout,
  scratchFolder,
  startScript,
} from "./scratch.js";

const lastLine = (text: string) => text.trimEnd().split("\n").at(-1);

describe("the last line of npm test", () => {
  it("adds up what ran", () => {
    const count = fc.nat(1000);
    const tally = fc.record({ passed: count, failed: count, skipped: count });
    fc.assert(
      fc.property(fc.array(tally), (tallies) => {
        const total = sum(...tallies);
        for (const key of ["passed", "failed", "skipped"] as const) {
          expect(total[key]).toBe(tallies.reduce((all, one) => all + one[key], 0));
        }
        expect(finalLine(total)).toMatch(/^\d+ passed, \d+ failed(, [1-9]\d* skipped)?$/);
        expect(exitCodeOf(total)).toBe(total.failed > 0 || total.passed === 0 ? 1 : 0);
      }),
    );
  });

  it("counts files that cannot be loaded, hooks that throw, crashes and missing reports", () => {
    const test = (status: string) => ({ status });
    const report = {
      testResults: [
        {
          status: "passed",
          assertionResults: [test("passed"), test("passed"), test("skipped"), test("todo"), test("skipped")],
        },
        { status: "failed", assertionResults: [test("passed"), test("failed")] },
        { status: "failed", assertionResults: [] },
        { status: "failed", assertionResults: [test("skipped")] },
        { status: "passed", assertionResults: [test("passed"), test("pending"), test("pending")] },
        { status: "passed", assertionResults: [] },
      ],
    };
    expect(tallyVitest(report, 1)).toEqual({ passed: 4, failed: 6, skipped: 4 });
    expect(tallyVitest(null, 139)).toEqual({ passed: 0, failed: 1, skipped: 0 });
    expect(tallyVitest({ testResults: [report.testResults[0]] }, 1)).toEqual({ passed: 2, failed: 1, skipped: 3 });
    expect(tallyVitest({ testResults: [] }, 0)).toEqual({ passed: 0, failed: 0, skipped: 0 });
    expect(exitCodeOf(tallyVitest({ testResults: [] }, 0))).toBe(1);
    expect(sum(tallyCheck(true), tallyCheck(false))).toEqual({ passed: 1, failed: 1, skipped: 0 });
  });
});

describe("npm test", () => {
  const good =
    'import { expect, it } from "vitest";\nit("adds", () => expect(1 + 1).toBe(2));\nit.skip("later", () => {});\n';
  const bad = 'import { expect, it } from "vitest";\nit("fails", () => expect(1).toBe(2));\nit("passes", () => {});\n';

  it("runs lint, types and all tests, streams them, and ends with the line", () => {
    const root = scratchCheckout();
    const env = pretendBuilt(root);
    put(
      join(root, "test", "good.test.ts"),
      'import { expect, it } from "vitest";\n\nit("adds", () => expect(1 + 1).toBe(2));\n',
    );
    put(join(root, "test", "gpu", "never.test.ts"), 'throw new Error("not here");\n');
    const run = runScript(root, "scripts/test.mjs", [], env);
    expect(run.out).toMatch(/== lint[\s\S]*== types[\s\S]*== tests[\s\S]*good\.test\.ts/);
    expect(lastLine(run.out)).toBe("3 passed, 0 failed");
    expect(run.status).toBe(0);
  });

  it("fails by lint and by types, and still runs the tests", () => {
    const root = scratchCheckout();
    put(join(root, "native", "ugly.cc"), "int   ugly( ){return 1;}\n");
    const env = pretendBuilt(root);
    put(join(root, "test", "good.test.ts"), good);
    put(join(root, "test", "types.ts"), "export const wrong: number = 'text';\n");
    const run = runScript(root, "scripts/test.mjs", [], env);
    expect(run.all).toMatch(/Not formatted[\s\S]*native\/ugly\.cc/);
    expect(run.all).toContain("test/types.ts");
    expect(lastLine(run.out)).toBe("1 passed, 2 failed, 1 skipped");
    expect(run.status).toBe(1);
  });

  it("with a name runs only the files that match", () => {
    const root = scratchCheckout();
    const env = pretendBuilt(root);
    put(join(root, "test", "one", "good.test.ts"), good);
    put(join(root, "test", "two", "bad.test.ts"), bad);
    const one = runScript(root, "scripts/test.mjs", ["one/"], env);
    expect(one.out).not.toContain("== lint");
    expect([lastLine(one.out), one.status]).toEqual(["1 passed, 0 failed, 1 skipped", 0]);
    const two = runScript(root, "scripts/test.mjs", ["bad"], env);
    expect([lastLine(two.out), two.status]).toEqual(["1 passed, 1 failed", 1]);
    const none = runScript(root, "scripts/test.mjs", ["nothing-is-called-this"], env);
    expect([lastLine(none.out), none.status]).toEqual(["0 passed, 1 failed", 1]);
  });

  it("counts a test file that ends its process, and one that cannot be loaded", () => {
    const root = scratchCheckout();
    const env = pretendBuilt(root);
    put(join(root, "test", "good.test.ts"), good);
    put(
      join(root, "test", "crash.test.ts"),
      'import { it } from "vitest";\nit("crashes", () => process.kill(process.pid, "SIGKILL"));\n',
    );
    put(join(root, "test", "broken.test.ts"), 'import "./nowhere.js";\n');
    const run = runScript(root, "scripts/test.mjs", ["test"], env);
    expect(run.status).toBe(1);
    expect(lastLine(run.out)).toBe("1 passed, 2 failed, 1 skipped");
    const crash = runScript(root, "scripts/test.mjs", ["crash"], env);
    expect([lastLine(crash.out), crash.status]).toEqual(["0 passed, 1 failed", 1]);
  });

  it("fails when set-up fails, with the reason before the line", () => {
    const root = scratchCheckout();
    const run = runScript(root, "scripts/test.mjs", [], cleanEnvironment({ LIBTORCH: "/nonexistent/libtorch" }));
    expect(run.err).toContain("[BAD_LIBTORCH]");
    expect([lastLine(run.out), run.status]).toEqual(["0 passed, 1 failed", 1]);
  });
});

describe(".ci/run", () => {
  it("is npm test without stdin, and names the benchmark data beside the checkout", () => {
    const parent = scratchFolder();
    const root = scratchCheckout(join(parent, "checkout"));
    const env = { ...pretendBuilt(root), CI: "true" };
    mkdirSync(join(parent, "shared", "data"), { recursive: true });
    const expected = JSON.stringify(realpathSync(join(parent, "shared", "data")));
    put(
      join(root, "test", "data.test.ts"),
      `import { expect, it } from "vitest";

it("is there", () => expect(process.env.DIFFCODER_BENCHMARKS).toBe(${expected}));
`,
    );
    const run = spawnSync(join(root, ".ci", "run"), {
      cwd: parent,
      env,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
    });
    expect([lastLine(run.stdout), run.status]).toEqual(["3 passed, 0 failed", 0]);
  });
});

describe("npm run test:gpu", () => {
  it("fails where the addon or a device is missing", () => {
    const root = scratchCheckout();
    const run = runScript(root, "scripts/test-gpu.mjs", [], pretendBuilt(root));
    expect(run.err).toContain("The addon does not load");
    expect([lastLine(run.out), run.status]).toEqual(["0 passed, 0 failed", 1]);
  });
});

describe("npm start", () => {
  it("hands arguments, exit code and signals to the quickstart", async () => {
    const root = scratchCheckout();
    const env = pretendBuilt(root);
    put(
      join(root, "lib", "cli", "main.ts"),
      `console.log(JSON.stringify(process.argv.slice(2)));
if (process.argv.includes("wait")) {
  process.on("SIGTERM", () => process.exit(5));
  setInterval(() => {}, 1000);
} else {
  process.exitCode = 7;
}
`,
    );
    const run = runScript(root, "scripts/start.mjs", ["--minutes", "2"], env);
    expect(run.all).toContain('["quickstart","--minutes","2"]');
    expect(run.status).toBe(7);

    const waiting = startScript(root, "scripts/start.mjs", ["wait"], env);
    while (!waiting.printed().includes("quickstart")) await new Promise((resolve) => setTimeout(resolve, 50));
    expect(waiting.printed()).toBe('["quickstart","wait"]\n'); // the second start set nothing up
    waiting.child.kill("SIGTERM");
    expect((await waiting.ended).status).toBe(5);
  });
});

describe("the command diffcoder", () => {
  it("says what to run when nothing is compiled or built", () => {
    const root = scratchCheckout();
    const bare = runScript(root, "bin/diffcoder.mjs", ["train"]);
    expect([bare.status, bare.err]).toEqual([1, "diffcoder is not compiled yet. Run: npm run setup\n"]);
    put(join(root, "dist", "cli", "main.js"), 'console.log("main", ...process.argv.slice(2));\n');
    const unbuilt = runScript(root, "bin/diffcoder.mjs", ["train"]);
    expect(unbuilt.status).toBe(1);
    expect(unbuilt.err).toContain("The native addon is not built yet. Run: npm run setup");
    expect(runScript(root, "bin/diffcoder.mjs", ["train", "--help"])).toMatchObject({
      status: 0,
      out: "main train --help\n",
    });
    put(join(root, "build", "Release", "diffcoder.node"));
    expect(runScript(root, "bin/diffcoder.mjs", ["train", "x"])).toMatchObject({ status: 0, out: "main train x\n" });
  });

  it("does set-up and doctor by itself", () => {
    const root = scratchCheckout();
    expect(runScript(root, "bin/diffcoder.mjs", ["setup", "--help"]).out).toContain("--only PART");
    const doctor = runScript(root, "bin/diffcoder.mjs", ["doctor", "--json"]);
    expect(doctor.status).toBe(1);
    expect(JSON.parse(doctor.out).canRun).toBe(false);
  });
});

describe("npm run bench", () => {
  it("runs what is named, passes options on and gathers the results", () => {
    const root = scratchCheckout();
    const env = pretendBuilt(root);
    const bench = (name: string) => `import { writeFileSync } from "node:fs";
const at = process.argv.indexOf("--json");
console.log("${name}", ...process.argv.slice(2).filter((arg) => arg.startsWith("--rounds") || arg === "3"));
if (at > 0) writeFileSync(process.argv[at + 1] as string, JSON.stringify([{ name: "${name}", ratio: 1 }]));
`;
    put(join(root, "bench", "alpha.ts"), bench("alpha"));
    put(join(root, "bench", "beta.ts"), bench("beta"));
    put(join(root, "bench", "support", "helper.ts"), "export {};\n");
    const one = runScript(root, "scripts/bench.mjs", ["beta", "--rounds", "3"], env);
    expect([one.status, one.out]).toEqual([0, "beta --rounds 3\n"]);
    const all = runScript(root, "scripts/bench.mjs", ["--json", "out.json"], env);
    expect(all.status).toBe(0);
    expect(JSON.parse(readFileSync(join(root, "out.json"), "utf8"))).toEqual([
      { name: "alpha", ratio: 1 },
      { name: "beta", ratio: 1 },
    ]);
    const unknown = runScript(root, "scripts/bench.mjs", ["gamma"], env);
    expect(unknown.status).toBe(2);
    expect(unknown.err).toMatch(/no benchmark named gamma[\s\S]*alpha, beta/);
    put(join(root, "bench", "beta.ts"), "process.exit(3);\n");
    expect(runScript(root, "scripts/bench.mjs", ["beta", "--json", "none.json"], env).status).toBe(3);
    expect(existsSync(join(root, "none.json"))).toBe(false);
  });
});
