import { execFileSync } from "node:child_process";
import { mkdirSync, symlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { hasDeviceCode, neededLibraries, runPaths, unresolvedSymbols } from "../../scripts/lib/elf.mjs";
import { put, scratchFolder } from "./scratch.js";

// What check:cuda and doctor read from an addon; the format is Linux's.
describe.runIf(process.platform === "linux")("a shared object", () => {
  it("names the libraries it loads, and the symbols that none of them defines", () => {
    const folder = scratchFolder();
    const compile = (...args: string[]) => execFileSync("c++", ["-shared", "-fPIC", ...args], { cwd: folder });
    put(join(folder, "lib.cc"), "int there() { return 1; }\n");
    put(join(folder, "lib-without.cc"), "int other() { return 1; }\n");
    put(
      join(folder, "addon.cc"),
      'extern "C" int napi_call(); int there(); int use() { return there() + napi_call(); }\n',
    );
    compile("-o", "libthere.so", "lib.cc");
    compile(
      "-o",
      "addon.node",
      "addon.cc",
      "-Wl,--no-as-needed",
      "./libthere.so",
      `-Wl,-rpath,${folder}`,
      "-Wl,-soname,addon",
    );
    const addon = join(folder, "addon.node");
    expect(neededLibraries(addon).map((name) => name.replace("./", ""))).toContain("libthere.so");
    expect(runPaths(addon)).toEqual([folder]);
    // As a CUDA build has it: libtorch is behind a link, and CUDA's libraries lie beside where the link leads.
    const nvidia = dirname(put(join(folder, "site", "nvidia", "lib", "libcudart.so")));
    mkdirSync(join(folder, "site", "torch", "lib"), { recursive: true });
    symlinkSync(join(folder, "site", "torch", "lib"), join(folder, "libtorch"));
    const run = "-Wl,-rpath,$ORIGIN/libtorch:$ORIGIN/libtorch/../../nvidia/lib";
    compile("-o", "linked.node", "addon.cc", run);
    expect(runPaths(join(folder, "linked.node"))).toEqual([join(folder, "libtorch"), nvidia]);
    expect(hasDeviceCode(addon)).toBe(false);
    expect(unresolvedSymbols(addon)).toEqual([]);
    compile("-o", "libthere.so", "lib-without.cc");
    expect(unresolvedSymbols(addon)).toEqual(["_Z5therev"]);
  });
});
