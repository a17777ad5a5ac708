import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { inspectLibtorch, libraryFile } from "../../scripts/lib/libtorch.mjs";
import { nativeFlags } from "../../scripts/lib/native-flags.mjs";
import { projectRoot } from "../../scripts/lib/paths.mjs";
import { cleanEnvironment, fakeLibtorch, put, runScript, scratchCheckout, scratchFolder } from "./scratch.js";

function flagsOf(folder: string, env: NodeJS.ProcessEnv = cleanEnvironment()) {
  const { libtorch } = inspectLibtorch(folder);
  if (!libtorch) throw new Error("refused");
  return nativeFlags(libtorch, { env, platform: "linux" });
}

describe("the flags of the addon", () => {
  it("are the same lists for CMake and for node-gyp", () => {
    const root = scratchCheckout();
    const env = cleanEnvironment({ LIBTORCH: fakeLibtorch(join(scratchFolder(), "with space", "torch")) });
    put(join(root, "native", "kernels", "b.cc"));
    const cmake = runScript(root, "scripts/native-flags.mjs", ["cmake", join(root, "build")], env).out;
    const fromCmake = (name: string) => new RegExp(`set\\(DIFFCODER_${name} "(.*)"\\)`).exec(cmake)?.[1]?.split(";");
    const fromGyp = (key: string) =>
      runScript(root, "scripts/native-flags.mjs", ["gyp", key], env)
        .out.trim()
        .split("\n")
        .map((item) => item.replace(/^'(.*)'$/, "$1"));
    expect(fromCmake("SOURCES")).toEqual(["native/addon.cc", "native/kernels/b.cc"]);
    for (const [name, key] of [
      ["SOURCES", "sources"],
      ["DEFINES", "defines"],
      ["CXX_FLAGS", "cxxFlags"],
      ["LD_FLAGS", "ldFlags"],
      ["LIBRARIES", "libraries"],
    ] as const) {
      expect(fromGyp(key)).toEqual(fromCmake(name));
    }
  });

  it("are all known that binding.gyp asks for", () => {
    const root = scratchCheckout();
    const env = cleanEnvironment({ LIBTORCH: fakeLibtorch(scratchFolder(), { version: "2.12.0+cu130", cuda: true }) });
    const asked = [
      ...readFileSync(join(projectRoot, "binding.gyp"), "utf8").matchAll(/native-flags\.mjs gyp (\w+)/g),
    ].map((m) => m[1]);
    expect(new Set(asked).size).toBeGreaterThan(8);
    for (const key of new Set(asked)) {
      expect(runScript(root, "scripts/native-flags.mjs", ["gyp", key ?? ""], env)).toMatchObject({
        status: 0,
        err: "",
      });
    }
    expect(runScript(root, "scripts/native-flags.mjs", ["gyp", "nonsense"], env)).toMatchObject({ status: 1 });
  });

  it.runIf(process.platform === "linux")("leave $ORIGIN to the linker, after gyp, make and the shell", () => {
    const root = scratchCheckout();
    const env = cleanEnvironment({ LIBTORCH: fakeLibtorch(scratchFolder()) });
    const printed = runScript(root, "scripts/native-flags.mjs", ["gyp", "rpathFlags"], env).out.trim();
    const afterGyp = printed.replace(/\\(.)/g, "$1"); // it splits as a shell would
    put(join(root, "Makefile"), `all:\n\t@printf '%s' ${afterGyp}\n`);
    const made = spawnSync("make", ["-s", "-C", root], { encoding: "utf8" });
    expect(made.stdout).toBe("-Wl,-rpath,$ORIGIN/libtorch");
  });

  it("load the CUDA libraries by name for a CUDA build only", () => {
    const cpu = flagsOf(fakeLibtorch(scratchFolder()));
    expect(cpu.libraries.some((file) => file.includes("cuda"))).toBe(false);
    expect(cpu.defines).not.toContain("DIFFCODER_CUDA=1");
    const site = scratchFolder();
    const folder = fakeLibtorch(join(site, "torch"), { version: "2.12.0+cu130", cuda: true });
    const runtime = put(join(site, "nvidia", "cu13", "lib", "libcudart.so.13"));
    put(join(site, "nvidia", "cu13", "include", "cuda_runtime.h"));
    // The toolkit has one too; torch's own comes first.
    const toolkit = scratchFolder();
    put(join(toolkit, "bin", "nvcc"));
    put(join(toolkit, "include", "cuda_runtime.h"));
    put(join(toolkit, "lib64", "libcudart.so"));
    const cuda = flagsOf(folder, cleanEnvironment({ CUDA_HOME: toolkit }));
    expect(cuda.libraries).toEqual(expect.arrayContaining([join(folder, "lib", libraryFile("torch_cuda")), runtime]));
    expect(cuda.ldFlags).toContain("-Wl,--no-as-needed");
    expect(cuda.defines).toContain("DIFFCODER_CUDA=1");
    expect(cuda.cudaIncludes).toContain(join(site, "nvidia", "cu13", "include"));
    expect(cuda.rpaths).toEqual(["$ORIGIN/libtorch", "$ORIGIN/libtorch/../../nvidia/cu13/lib"]);
  });

  it("compile .cu files for a CUDA build only", () => {
    const root = scratchCheckout();
    put(join(root, "native", "kernels", "k.cu"));
    const ask = (LIBTORCH: string) =>
      runScript(root, "scripts/native-flags.mjs", ["gyp", "cudaSources"], cleanEnvironment({ LIBTORCH })).out.trim();
    expect(ask(fakeLibtorch(scratchFolder()))).toBe("");
    expect(ask(fakeLibtorch(scratchFolder(), { version: "2.12.0+cu130", cuda: true }))).toBe("native/kernels/k.cu");
  });

  it("use torch's own OpenMP where it brings one", () => {
    const folder = fakeLibtorch(scratchFolder());
    const openmp = put(join(folder, "lib", "libgomp.so.1"));
    expect(flagsOf(folder).libraries.at(-1)).toBe(openmp);
    expect(flagsOf(folder).cxxFlags).toContain("-fopenmp");
  });
});
