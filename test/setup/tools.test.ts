import { chmodSync, mkdirSync, symlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { cudaArchitectures, cudaToolkit, requireCudaTools } from "../../scripts/lib/cuda.mjs";
import { inspectLibtorch } from "../../scripts/lib/libtorch.mjs";
import { installCommand, requireNode, requirePlatform, systemFamily } from "../../scripts/lib/toolchain.mjs";
import { cleanEnvironment, fakeLibtorch, put, runScript, scratchCheckout, scratchFolder } from "./scratch.js";

/** A PATH with node and the named programs of this machine only. */
function pathWith(...names: string[]): string {
  const folder = join(scratchFolder(), "bin");
  mkdirSync(folder);
  symlinkSync(process.execPath, join(folder, "node"));
  for (const name of names) {
    for (const from of (process.env.PATH ?? "").split(":")) {
      try {
        symlinkSync(join(from, name), join(folder, name));
        break;
      } catch {
        // not there
      }
    }
  }
  return folder;
}

function program(path: string, text: string): string {
  put(path, `#!/bin/sh\n${text}\n`);
  chmodSync(path, 0o755);
  return path;
}

describe("a missing tool is named with the command that brings it", () => {
  const addon = ["--only", "addon"];

  it("compiler", () => {
    const root = scratchCheckout();
    const LIBTORCH = fakeLibtorch(scratchFolder());
    const run = runScript(root, "scripts/setup.mjs", addon, cleanEnvironment({ LIBTORCH, CXX: "/nonexistent/c++" }));
    expect(run.status).toBe(1);
    expect(run.all).toContain('CXX is "/nonexistent/c++", which does not run. [NO_COMPILER]');
    expect(run.all).toContain(installCommand("compiler"));
    const none = runScript(root, "scripts/setup.mjs", addon, cleanEnvironment({ LIBTORCH, PATH: pathWith() }));
    expect(none.all).toContain("There is no C++ compiler. [NO_COMPILER]");
  });

  it("CMake, absent or too old", () => {
    const root = scratchCheckout();
    const LIBTORCH = fakeLibtorch(scratchFolder());
    const CXX = program(join(scratchFolder(), "c++"), "echo 'g++ 13.2.0'");
    const none = runScript(root, "scripts/setup.mjs", addon, cleanEnvironment({ LIBTORCH, CXX, PATH: pathWith("sh") }));
    expect(none.all).toContain("There is no CMake. [NO_CMAKE]");
    expect(none.all).toContain(installCommand("cmake"));
    const cmake = program(join(scratchFolder(), "cmake"), "echo 'cmake version 3.10.2'");
    const PATH = `${dirname(cmake)}:${pathWith("sh")}`;
    const old = runScript(root, "scripts/setup.mjs", addon, cleanEnvironment({ LIBTORCH, CXX, PATH }));
    expect(old.all).toContain("CMake 3.10.2 is older than 3.18. [CMAKE_TOO_OLD]");
    program(cmake, "echo 'cmake version 3.25.1'");
    const bare = runScript(root, "scripts/setup.mjs", addon, cleanEnvironment({ LIBTORCH, CXX, PATH }));
    expect(bare.all).toContain("There is neither ninja nor make. [NO_MAKE]");
  });

  it("Python and pip, when libtorch must be fetched", () => {
    const root = scratchCheckout();
    const none = runScript(root, "scripts/setup.mjs", ["--only", "libtorch"], cleanEnvironment({ PATH: pathWith() }));
    expect(none.status).toBe(1);
    expect(none.all).toContain("[NO_PYTHON]");
    expect(none.all).toContain(installCommand("python"));
    const python = program(
      join(scratchFolder(), "python3"),
      'case "$1" in --version) echo Python 3.12.1;; -m) exit 1;; esac',
    );
    const PATH = `${dirname(python)}:${pathWith("sh")}`;
    const bare = runScript(root, "scripts/setup.mjs", ["--only", "libtorch"], cleanEnvironment({ PATH }));
    expect(bare.all).toContain(`${python} has no pip. [NO_PIP]`);
  });

  it("a system that is not supported", () => {
    expect(() => requirePlatform("linux")).not.toThrow();
    expect(() => requirePlatform("darwin")).not.toThrow();
    expect(() => requirePlatform("win32")).toThrow(expect.objectContaining({ code: "PLATFORM" }));
  });

  it("Node", () => {
    expect(() => requireNode("20.19.0")).not.toThrow();
    expect(() => requireNode("24.1.0")).not.toThrow();
    expect(() => requireNode("20.18.3")).toThrow("Node 20.18.3 is older than 20.19");
    expect(() => requireNode("18.20.0")).toThrow(expect.objectContaining({ code: "NODE_TOO_OLD" }));
  });

  it("in the words of this system", () => {
    const family = (osRelease: string) => systemFamily({ platform: "linux", osRelease });
    expect(family('NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n')).toBe("debian");
    expect(family('ID="linuxmint"\nID_LIKE="ubuntu debian"\n')).toBe("debian");
    expect(family('ID="rocky"\nID_LIKE="rhel centos fedora"\n')).toBe("fedora");
    expect(family("ID=arch\n")).toBe("other");
    expect(systemFamily({ platform: "darwin" })).toBe("macos");
    expect(installCommand("cmake", "fedora")).toContain("dnf");
  });
});

describe("a libtorch that cannot be used", () => {
  it("is refused before anything is done, with what to do", () => {
    const root = scratchCheckout();
    const missing = runScript(root, "scripts/setup.mjs", [], cleanEnvironment({ LIBTORCH: "/nonexistent/libtorch" }));
    expect(missing.status).toBe(1);
    expect(missing.all).toContain("LIBTORCH cannot be used: /nonexistent/libtorch: no such folder. [BAD_LIBTORCH]");
    expect(missing.all).toContain("or unset it");
    const LIBTORCH = fakeLibtorch(scratchFolder(), { version: "2.6.0+cpu" });
    const old = runScript(root, "scripts/setup.mjs", [], cleanEnvironment({ LIBTORCH }));
    expect(old.all).toMatch(/version 2\.6\.0\+cpu is not 2\.11 to 2\.13 .*\[BAD_LIBTORCH\]/);
  });
});

describe("CUDA", () => {
  function fakeToolkit(version: string): string {
    const home = scratchFolder();
    program(join(home, "bin", "nvcc"), `echo 'Cuda compilation tools, release ${version}, V${version}.88'`);
    put(join(home, "include", "cuda_runtime.h"));
    return home;
  }

  it("architectures follow PyTorch's TORCH_CUDA_ARCH_LIST", () => {
    const of = (list: string) => cudaArchitectures({ TORCH_CUDA_ARCH_LIST: list });
    expect(of("9.0a")).toEqual(["90a-real"]);
    expect(of("8.0;8.6 9.0+PTX")).toEqual(["80-real", "86-real", "90"]);
    expect(of("10.0f,12.0")).toEqual(["100f-real", "120-real"]);
    expect(() => of("Hopper")).toThrow(expect.objectContaining({ code: "BAD_ARCH_LIST" }));
    expect(cudaArchitectures({ PATH: "/nonexistent" })).toEqual(["80-real", "86-real", "89-real", "90"]);
  });

  it("the toolkit is CUDA_HOME, else where nvcc on PATH really lies, else a wheel beside torch", () => {
    const home = fakeToolkit("13.0");
    const other = fakeToolkit("13.1");
    expect(cudaToolkit({ CUDA_HOME: home, PATH: join(other, "bin") })).toBe(home);
    expect(cudaToolkit({ CUDA_HOME: "/nonexistent", PATH: join(other, "bin") })).toBe(other);
    const links = scratchFolder();
    symlinkSync(join(home, "bin", "nvcc"), join(links, "nvcc"));
    expect(cudaToolkit({ PATH: links })).toBe(home);
  });

  it("a CUDA libtorch wants an nvcc of its major version", () => {
    const { libtorch } = inspectLibtorch(fakeLibtorch(scratchFolder(), { version: "2.12.0+cu130", cuda: true }));
    if (!libtorch) throw new Error("refused");
    expect(() => requireCudaTools(libtorch, { CUDA_HOME: fakeToolkit("13.2") })).not.toThrow();
    const wrong = () => requireCudaTools(libtorch, { CUDA_HOME: fakeToolkit("12.8") });
    expect(wrong).toThrow(expect.objectContaining({ code: "WRONG_NVCC" }));
    const broken = scratchFolder();
    program(join(broken, "bin", "nvcc"), "exit 1");
    put(join(broken, "include", "cuda_runtime.h"));
    expect(() => requireCudaTools(libtorch, { CUDA_HOME: broken })).toThrow("does not run");
  });

  it("check:cuda refuses a CPU build", () => {
    const root = scratchCheckout();
    const run = runScript(
      root,
      "scripts/check-cuda.mjs",
      [],
      cleanEnvironment({ LIBTORCH: fakeLibtorch(scratchFolder()) }),
    );
    expect(run.status).toBe(1);
    expect(run.all).toMatch(/is a CPU build\. \[NO_CUDA_LIBTORCH\]/);
  });
});
