import { chmodSync, existsSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { addonStaleness, buildJobs, buildProgress } from "../../scripts/lib/addon.mjs";
import { inspectLibtorch, libraryFile } from "../../scripts/lib/libtorch.mjs";
import { packagesStaleness } from "../../scripts/lib/packages.mjs";
import { readStamp, staleEntries, writeStamp } from "../../scripts/lib/stamp.mjs";
import { distStaleness } from "../../scripts/lib/typescript.mjs";
import {
  cleanEnvironment,
  fakeLibtorch,
  pretendBuilt,
  put,
  runScript,
  scratchCheckout,
  scratchFolder,
  startScript,
} from "./scratch.js";

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

function libtorchOf(env: NodeJS.ProcessEnv) {
  const { libtorch } = inspectLibtorch(env.LIBTORCH ?? "");
  if (!libtorch) throw new Error("no libtorch");
  return libtorch;
}

describe("the addon is built again", () => {
  it("never when nothing changed", () => {
    const root = scratchCheckout();
    const env = pretendBuilt(root);
    expect(addonStaleness(libtorchOf(env), { root, env })).toEqual([]);
    const other = { ...env, PATH: `${env.PATH}:/nonexistent`, NODE_OPTIONS: "--no-warnings" };
    expect(addonStaleness(libtorchOf(env), { root, env: other })).toEqual([]);
  });

  it.each([
    ["a source is edited", (root: string) => put(join(root, "native", "addon.cc"), "int answer() { return 43; }\n")],
    ["a header is added", (root: string) => put(join(root, "native", "deep", "new.h"), "")],
    ["a source is removed", (root: string) => rmSync(join(root, "native", "addon.cc"))],
    ["CMakeLists.txt is edited", (root: string) => put(join(root, "CMakeLists.txt"), "# other\n")],
    ["the flags are edited", (root: string) => put(join(root, "scripts", "lib", "native-flags.mjs"), "// other\n")],
  ])("when %s", (_name, change) => {
    const root = scratchCheckout();
    const env = pretendBuilt(root);
    change(root);
    expect(addonStaleness(libtorchOf(env), { root, env })).toEqual(["native sources changed"]);
  });

  it("but not when a file that is no source changed", () => {
    const root = scratchCheckout();
    const env = pretendBuilt(root);
    put(join(root, "native", "notes.md"), "text");
    expect(addonStaleness(libtorchOf(env), { root, env })).toEqual([]);
  });

  it("when libtorch is another one, another version, another build, or was replaced in place", () => {
    const root = scratchCheckout();
    const env = pretendBuilt(root);
    const staleness = (folder: string) => {
      const { libtorch } = inspectLibtorch(folder);
      return libtorch ? addonStaleness(libtorch, { root, env }) : null;
    };
    const given = env.LIBTORCH ?? "";
    expect(staleness(fakeLibtorch(scratchFolder()))).toEqual(["libtorch lies elsewhere"]);
    expect(staleness(fakeLibtorch(scratchFolder(), { version: "2.12.0+cpu" }))).toEqual(["libtorch changed"]);
    const cuda = fakeLibtorch(scratchFolder(), { version: "2.13.0+cu130", cuda: true });
    expect(staleness(cuda)).toContain("libtorch changed");
    put(join(given, "lib", libraryFile("torch_cpu")), "the same version, built again, with another size");
    expect(staleness(given)).toEqual(["libtorch changed"]);
  });

  it("when it is gone, or its last build did not end", () => {
    const root = scratchCheckout();
    const env = pretendBuilt(root);
    rmSync(join(root, "build", "diffcoder.stamp.json"));
    expect(addonStaleness(libtorchOf(env), { root, env })).toEqual(["its last build did not end"]);
    rmSync(join(root, "build"), { recursive: true });
    expect(addonStaleness(libtorchOf(env), { root, env })).toEqual(["it was never built"]);
  });
});

describe("dist/ is compiled again", () => {
  it("only when lib/ or the settings changed, and without the output of removed files", () => {
    const root = scratchCheckout();
    put(join(root, "lib", "gone.ts"), "export const gone = 1;\n");
    const compile = () => runScript(root, "scripts/setup.mjs", ["--only", "typescript"]);
    expect(distStaleness({ root })).toEqual(["never made"]);
    expect(compile().status).toBe(0);
    expect(readFileSync(join(root, "dist", "gone.js"), "utf8")).toContain("gone = 1");
    expect(distStaleness({ root })).toEqual([]);
    expect(compile().all.trim()).toBe("Everything is up to date.");

    rmSync(join(root, "lib", "gone.ts"));
    put(join(root, "lib", "cli", "main.ts"), "export const main = 2;\n");
    expect(distStaleness({ root })).toEqual(["sources", "files"]);
    expect(compile().status).toBe(0);
    expect(() => readFileSync(join(root, "dist", "gone.js"))).toThrow();
    expect(readFileSync(join(root, "dist", "cli", "main.js"), "utf8")).toContain("main = 2");
  });

  it("again after a type error, which it prints", () => {
    const root = scratchCheckout();
    put(join(root, "lib", "cli", "main.ts"), 'export const wrong: number = "text";\n');
    const run = runScript(root, "scripts/setup.mjs", ["--only", "typescript"]);
    expect(run.status).toBe(1);
    expect(run.all).toMatch(/lib\/cli\/main\.ts\(1,14\): error TS2322[\s\S]*\[TYPESCRIPT_FAILED\]/);
    expect(distStaleness({ root })).not.toEqual([]);
  });
});

describe("npm packages are installed again", () => {
  const lock = (packages: Record<string, unknown>) =>
    JSON.stringify({ lockfileVersion: 3, packages: { "": {}, ...packages } });

  function installed(packages: Record<string, { version: string }>): string {
    const root = scratchFolder();
    put(join(root, "node_modules", ".package-lock.json"), lock(packages));
    for (const name of Object.keys(packages)) put(join(root, name, "package.json"), "{}");
    return root;
  }

  it("when one is missing or has another version, not when an optional one of another platform is absent", () => {
    const root = installed({ "node_modules/a": { version: "1.0.0" }, "node_modules/b": { version: "2.0.0" } });
    const wanted = (packages: Record<string, unknown>) => put(join(root, "package-lock.json"), lock(packages));
    wanted({ "node_modules/a": { version: "1.0.0" }, "node_modules/x": { version: "1.0.0", optional: true } });
    expect(packagesStaleness({ root })).toEqual([]);
    wanted({ "node_modules/a": { version: "1.0.1" }, "node_modules/c": { version: "1.0.0" } });
    expect(packagesStaleness({ root })).toEqual([
      "node_modules/a is 1.0.0 instead of 1.0.1",
      "node_modules/c is missing",
    ]);
    wanted({ "node_modules/b": { version: "2.0.0" } });
    rmSync(join(root, "node_modules", "b"), { recursive: true });
    expect(packagesStaleness({ root })).toEqual(["node_modules/b is missing"]);
    rmSync(join(root, "node_modules"), { recursive: true });
    expect(packagesStaleness({ root })).toEqual(["node_modules is missing"]);
    rmSync(join(root, "package-lock.json"));
    expect(packagesStaleness({ root })).toEqual([]);
  });
});

describe("stamps", () => {
  it("are whole or absent, and a torn one counts as absent", () => {
    const path = join(scratchFolder(), "deep", "stamp.json");
    expect(readStamp(path)).toBeNull();
    writeStamp(path, { a: 1, b: [2] });
    expect(readStamp(path)).toEqual({ a: 1, b: [2] });
    writeFileSync(path, '{ "a": ');
    expect(readStamp(path)).toBeNull();
    expect(staleEntries(null, { a: 1 })).toEqual(["never made"]);
    expect(staleEntries({ a: 1, b: 2, extra: 3 }, { a: 1, b: 3 })).toEqual(["b"]);
  });

  it("see an edit that keeps a file's size and time, and not a new time alone", () => {
    const root = scratchCheckout();
    const env = pretendBuilt(root);
    const source = join(root, "native", "addon.cc");
    const { atime, mtime } = statSync(source);
    utimesSync(source, new Date(), new Date(Date.now() + 5000));
    expect(addonStaleness(libtorchOf(env), { root, env })).toEqual([]);
    put(source, readFileSync(source, "utf8").replace("42", "43"));
    utimesSync(source, atime, mtime);
    expect(addonStaleness(libtorchOf(env), { root, env })).toEqual(["native sources changed"]);
  });
});

describe("building", () => {
  it("runs as many compilers as cores and memory allow, or as DIFFCODER_JOBS says", () => {
    expect(buildJobs({}, 2, 24 * 2 ** 30)).toBe(2);
    expect(buildJobs({}, 64, 8 * 2 ** 30)).toBe(4);
    expect(buildJobs({}, 4, 2 ** 30)).toBe(1);
    expect(buildJobs({ DIFFCODER_JOBS: "7" }, 2, 2 ** 30)).toBe(7);
    expect(buildJobs({ DIFFCODER_JOBS: "many" }, 2, 24 * 2 ** 30)).toBe(2);
  });

  it("reads the progress of ninja and of make", () => {
    expect(buildProgress("[3/18] Building CXX object CMakeFiles/diffcoder.dir/native/a/b.cc.o")).toBe(
      "3/18 native/a/b.cc",
    );
    expect(buildProgress("[ 12%] Building CXX object CMakeFiles/diffcoder.dir/native/call.cc.o")).toBe(
      "12% native/call.cc",
    );
    expect(buildProgress("[2/7] Building CXX object CMakeFiles/diffcoder.dir/units/kernels_cpu.cc.o")).toBe(
      "2/7 units/kernels_cpu.cc",
    );
    expect(buildProgress("[18/18] Linking CXX shared library Release/diffcoder.node")).toBe("18/18 linking");
    expect(buildProgress("[0/2] Re-checking globbed directories...")).toBeNull();
    expect(buildProgress("native/call.cc:3:1: warning: unused")).toBeNull();
  });

  it("prints the compiler's error and what to do, and keeps the files that did compile", () => {
    const root = scratchCheckout();
    const libtorch = fakeLibtorch(join(root, "fake"));
    put(join(libtorch, "include", "torch", "csrc", "api", "include", "torch", "torch.h"));
    put(join(root, "native", "precompiled.h"));
    put(join(root, "native", "kernels", "good.cc"), "int good() { return 1; }\n"); // in a unit of its own
    put(join(root, "native", "addon.cc"), "int answer() { return undeclared; }\n");
    const env = { ...process.env, LIBTORCH: libtorch, DIFFCODER_ADDON_CACHE: "off" };
    const build = () => runScript(root, "scripts/setup.mjs", ["--only", "addon"], env);
    const first = build();
    expect(first.status).toBe(1);
    expect(first.all).toMatch(
      /native\/addon\.cc:1:\d+: error: .*undeclared[\s\S]*\[BUILD_FAILED\][\s\S]*\.cache\/logs\/build\.log/,
    );

    // The fake libraries cannot be linked; that the next error is the linker's shows that compiling went on from where it was.
    put(join(root, "native", "addon.cc"), "int answer() { return 42; }\n");
    const second = build();
    expect(second.status).toBe(1);
    const log = readFileSync(join(root, ".cache", "logs", "build.log"), "utf8");
    expect(log).toMatch(/Building CXX object .*units\/boundary_unit\.cc/);
    expect(log).not.toMatch(/Building CXX object .*units\/operators_unit\.cc/);
    expect(second.all).toMatch(/not recognized|invalid|unknown|malformed|truncated/i);
  });
});

describe("set-up that is ended", () => {
  it("ends the compilers it started, and goes on the next time", async () => {
    const root = scratchCheckout();
    const pidFile = join(root, "compiler-pid");
    // A compiler that never ends once it is asked to compile a source of ours.
    const slow = put(
      join(root, "slow-c++"),
      `#!/bin/sh\ncase "$*" in *boundary_unit.cc*) echo $$ > ${pidFile}; sleep 600;; esac\nexec c++ "$@"\n`,
    );
    chmodSync(slow, 0o755);
    put(join(root, "native", "precompiled.h"));
    const env = cleanEnvironment({ LIBTORCH: fakeLibtorch(join(root, "fake")), CXX: slow });
    const run = startScript(root, "scripts/setup.mjs", ["--only", "addon"], env);
    while (!existsSync(pidFile) || readFileSync(pidFile, "utf8") === "") await sleep(50);
    const pid = Number(readFileSync(pidFile, "utf8"));
    expect(() => process.kill(pid, 0)).not.toThrow();
    run.child.kill("SIGTERM");
    expect((await run.ended).status).toBe(143);
    while (isAlive(pid)) await sleep(50);
    expect(existsSync(join(root, ".cache", "setup.lock"))).toBe(false);
    expect(addonStaleness(libtorchOf(env), { root, env })).toEqual(["it was never built"]);
  });
});

describe("set-up on the command line", () => {
  it("explains its options and refuses unknown ones", () => {
    const root = scratchCheckout();
    const help = runScript(root, "scripts/setup.mjs", ["--help"]);
    expect(help).toMatchObject({ status: 0, err: "" });
    expect(help.out).toContain("--only PART");
    expect(runScript(root, "scripts/setup.mjs", ["--only", "everything"])).toMatchObject({ status: 2 });
    const unknown = runScript(root, "scripts/setup.mjs", ["--fast"]);
    expect(unknown.status).toBe(2);
    expect(unknown.err).toContain("--fast");
  });

  it("says nothing and is quick when all is done", () => {
    const root = scratchCheckout();
    const env = pretendBuilt(root);
    expect(runScript(root, "scripts/setup.mjs", [], env).all).toMatch(/\[1\/1\] compile TypeScript: done/);
    const started = performance.now();
    const again = runScript(root, "scripts/setup.mjs", [], env);
    expect(again.all).toBe("Everything is up to date.\n");
    expect(performance.now() - started).toBeLessThan(5000);
  });
});
