import { mkdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  cacheDefect,
  completeMarker,
  describeAttempts,
  findLibtorch,
  inspectLibtorch,
  isAcceptedVersion,
  libraryFile,
} from "../../scripts/lib/libtorch.mjs";
import { cleanEnvironment, fakeLibtorch, put, scratchFolder } from "./scratch.js";

/** A whole entry of the project's cache below `root`. */
function fakeCache(root: string, version: string): string {
  const folder = join(root, ".cache", "libtorch", version);
  fakeLibtorch(join(folder, "torch"), { version });
  const file = join(folder, "torch", "lib", libraryFile("torch_cpu"));
  const bytes = Buffer.byteLength(`fake lib/${libraryFile("torch_cpu")}`);
  writeFileSync(join(folder, completeMarker), JSON.stringify({ libraries: { [libraryFile("torch_cpu")]: bytes } }));
  return file;
}

describe("what a folder holds", () => {
  it("reads a wheel's version and whether it is a CUDA build", () => {
    const cpu = inspectLibtorch(fakeLibtorch(join(scratchFolder(), "torch"))).libtorch;
    expect(cpu).toMatchObject({ version: "2.13.0+cpu", cuda: false, cudaVersion: null });
    const cuda = inspectLibtorch(
      fakeLibtorch(join(scratchFolder(), "torch"), { version: "2.11.0+cu130", cuda: true }),
    ).libtorch;
    expect(cuda).toMatchObject({ version: "2.11.0+cu130", cuda: true, cudaVersion: "13.0" });
  });

  it("reads the version of an archive and of a source build", () => {
    const archive = fakeLibtorch(scratchFolder(), { version: null });
    put(join(archive, "build-version"), "2.12.1+cpu\n");
    expect(inspectLibtorch(archive).libtorch?.version).toBe("2.12.1+cpu");
    const built = fakeLibtorch(scratchFolder(), { version: null });
    const header = "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 11\n#define TORCH_VERSION_PATCH 3\n";
    put(join(built, "include", "torch", "headeronly", "version.h"), header);
    expect(inspectLibtorch(built).libtorch?.version).toBe("2.11.3");
  });

  it.each(["lib/libtorch_cpu.so", "lib/libc10.so", "include/ATen/ATen.h", "include/torch/library.h"])(
    "refuses one without %s and names it",
    (file) => {
      const name = file.replace(".so", libraryFile("x").slice(4));
      const { libtorch, refused } = inspectLibtorch(fakeLibtorch(scratchFolder(), { without: [name] }));
      expect(libtorch).toBeNull();
      expect(refused).toContain(`${name} is missing`);
    },
  );

  it("refuses one whose version cannot be read", () => {
    expect(inspectLibtorch(fakeLibtorch(scratchFolder(), { version: null })).refused).toContain(
      "version cannot be read",
    );
  });

  it("accepts 2.11 to 2.13 only, unless any version is asked for", () => {
    const accepted = ["2.11.0", "2.12.1+cu128", "2.13.0+cpu", "2.13.9"];
    const refused = ["2.10.2", "2.14.0", "1.13.1", "3.11.0", "2.1.0", "garbage"];
    expect(accepted.map(isAcceptedVersion)).toEqual(accepted.map(() => true));
    expect(refused.map(isAcceptedVersion)).toEqual(refused.map(() => false));
    const old = fakeLibtorch(scratchFolder(), { version: "2.5.1+cpu" });
    expect(inspectLibtorch(old).refused).toMatch(/2\.5\.1\+cpu is not 2\.11 to 2\.13.*DIFFCODER_ANY_LIBTORCH=1/);
    expect(inspectLibtorch(old, { anyVersion: true }).libtorch?.version).toBe("2.5.1+cpu");
  });
});

describe("where libtorch is looked for", () => {
  it("takes LIBTORCH before Python's, and Python's before the cache", () => {
    const root = scratchFolder();
    fakeCache(root, "2.13.0+cpu");
    const site = scratchFolder();
    put(join(fakeLibtorch(join(site, "torch"), { version: "2.12.0+cpu" }), "__init__.py"));
    const given = fakeLibtorch(scratchFolder(), { version: "2.11.0+cpu" });

    const all = findLibtorch({ root, env: cleanEnvironment({ LIBTORCH: given, PYTHONPATH: site }) });
    expect(all.libtorch).toMatchObject({ source: "LIBTORCH", root: given, version: "2.11.0+cpu" });
    const python = findLibtorch({ root, env: cleanEnvironment({ PYTHONPATH: site }) });
    expect(python.libtorch).toMatchObject({ source: "python", root: join(site, "torch"), version: "2.12.0+cpu" });
    const cache = findLibtorch({ root, env: cleanEnvironment({ PYTHON: "/nonexistent/python" }) });
    expect(cache.libtorch).toMatchObject({ source: "cache", version: "2.13.0+cpu" });
  });

  it("goes on to the cache when Python's torch has a wrong version, and says why", () => {
    const root = scratchFolder();
    fakeCache(root, "2.13.0+cpu");
    const site = scratchFolder();
    put(join(fakeLibtorch(join(site, "torch"), { version: "2.4.0" }), "__init__.py"));
    const { libtorch, tried } = findLibtorch({ root, env: cleanEnvironment({ PYTHONPATH: site }) });
    expect(libtorch?.source).toBe("cache");
    const lines = describeAttempts(tried).join("\n");
    expect(lines).toMatch(
      /LIBTORCH: not set\nactive Python: .*torch: version 2\.4\.0 is not .*\nproject cache: .*: taken$/,
    );
  });

  it("never takes another one in place of a LIBTORCH that cannot be used", () => {
    const root = scratchFolder();
    fakeCache(root, "2.13.0+cpu");
    const missing = findLibtorch({ root, env: cleanEnvironment({ LIBTORCH: "/nonexistent/libtorch" }) });
    expect(missing).toMatchObject({ libtorch: null, fatal: true });
    expect(missing.tried).toEqual([{ source: "LIBTORCH", path: "/nonexistent/libtorch", refused: "no such folder" }]);
    const old = fakeLibtorch(scratchFolder(), { version: "2.5.0" });
    expect(findLibtorch({ root, env: cleanEnvironment({ LIBTORCH: old }) })).toMatchObject({
      libtorch: null,
      fatal: true,
    });
    const env = cleanEnvironment({ LIBTORCH: old, DIFFCODER_ANY_LIBTORCH: "1" });
    expect(findLibtorch({ root, env }).libtorch?.version).toBe("2.5.0");
  });

  it("does not take a folder named torch in the current directory for Python's torch", () => {
    const root = scratchFolder();
    mkdirSync(join(root, "torch"));
    const { libtorch } = findLibtorch({ root, env: cleanEnvironment({ PYTHONPATH: root }) });
    expect(libtorch).toBeNull(); // a namespace package: no __init__.py
  });

  it("reports a Python that is missing or does not run", () => {
    const root = scratchFolder();
    const none = findLibtorch({ root, env: cleanEnvironment({ PATH: root }) });
    expect(describeAttempts(none.tried)).toContain("active Python: no python3 or python on PATH");
    const broken = put(join(root, "broken-python"), "not a program");
    const failing = findLibtorch({ root, env: cleanEnvironment({ PYTHON: broken }) });
    expect(describeAttempts(failing.tried).join("\n")).toMatch(/active Python: .*broken-python does not run/);
  });

  it("prefers the newest version in the cache", () => {
    const root = scratchFolder();
    for (const version of ["2.11.0+cpu", "2.13.0+cpu", "2.12.0+cpu"]) fakeCache(root, version);
    const { libtorch } = findLibtorch({ root, env: cleanEnvironment({ PYTHON: "/nonexistent/python" }) });
    expect(libtorch?.version).toBe("2.13.0+cpu");
  });
});

describe("a broken cache", () => {
  const env = () => cleanEnvironment({ PYTHON: "/nonexistent/python" });

  it("is not taken when a library is truncated, missing, or the fetch never ended", () => {
    const root = scratchFolder();
    const library = fakeCache(root, "2.13.0+cpu");
    const folder = join(root, ".cache", "libtorch", "2.13.0+cpu");
    expect(cacheDefect(folder)).toBeNull();
    expect(findLibtorch({ root, env: env() }).libtorch).not.toBeNull();

    truncateSync(library, 3);
    expect(cacheDefect(folder)).toMatch(/has 3 bytes instead of \d+/);
    expect(findLibtorch({ root, env: env() }).libtorch).toBeNull();
    rmSync(library);
    expect(cacheDefect(folder)).toContain("is missing");
    writeFileSync(join(folder, completeMarker), "{ torn");
    expect(cacheDefect(folder)).toContain("is not JSON");
    rmSync(join(folder, completeMarker));
    expect(cacheDefect(folder)).toContain("not completed");
    expect(describeAttempts(findLibtorch({ root, env: env() }).tried).join("\n")).toContain("not completed");
  });

  it("does not hide a whole one beside it", () => {
    const root = scratchFolder();
    truncateSync(fakeCache(root, "2.13.0+cpu"), 1);
    fakeCache(root, "2.12.0+cpu");
    expect(findLibtorch({ root, env: env() }).libtorch?.version).toBe("2.12.0+cpu");
  });
});
